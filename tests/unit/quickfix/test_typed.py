"""What is noticed about names as they are typed; that the page notices the same is tested in tests/browser."""

import json
import re
from pathlib import Path

import pytest
from diff_quickfix.quickfix.concepts.typed import (
    EMBEDDING,
    NETWORK,
    SENTENCES,
    SEVERAL,
    WEIGHT,
    bare,
    notes_on,
    refuse_syntax,
)
from diff_quickfix.text.prompts import PromptError
from hypothesis import given
from hypothesis import strategies as st

TEXTS = Path(__file__).resolve().parents[3] / "web" / "texts"
WORDS = st.lists(st.sampled_from(["van", "gogh", "snoopy", "l'art", "r2d2", "\u68b5\u9ad8"]), min_size=1, max_size=4)


@given(WORDS, st.sampled_from(["({}:1.3)", "(({}))", "[{}]", "{}:0.8", "(({}:1.2):.5)", '"{}"', " {} "]))
def test_a_plain_name_is_noticed_in_no_way_and_is_what_its_syntax_leaves(words, form):
    name = " ".join(words)
    assert notes_on(name, "a drawing of it", "style") == ()
    refuse_syntax([name])
    assert bare(form.format(name)) == name


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("(van gogh:1.3)", WEIGHT), ("a (b:.5) c", WEIGHT), ("<lora:x:1>", NETWORK), ("embedding:x", EMBEDDING)],
)
def test_syntax_that_no_prompt_says_is_refused_and_told(name, sentence):
    (note,) = notes_on(name, "painting", "style")
    assert note.sentence == sentence
    with pytest.raises(PromptError, match=re.escape(repr(name))):
        refuse_syntax(["van gogh", name])


@pytest.mark.parametrize("name", ["ganyu (genshin impact)", "van gogh, monet", "(van gogh)", "level 5:3", "a -> b"])
def test_what_may_be_a_name_is_never_refused(name):
    refuse_syntax([name])


@given(WORDS, WORDS, st.sampled_from([", ", " and ", "\n", "; ", "\u3001"]))
def test_names_are_counted_not_forbidden(one, other, between):
    (note,) = notes_on(between.join((" ".join(one), " ".join(other))), "x", "object")
    assert (note.sentence, note.values) == (SEVERAL, {"count": "2"})


def test_where_a_list_brings_concepts_an_empty_source_is_no_fault():
    assert notes_on("", "", "object", listed=True) == ()
    assert len(notes_on("", "", "object")) == 2
    assert notes_on("snoopy", None, "object") == ()


def test_the_page_has_every_sentence():
    found = json.loads((TEXTS / "de.json").read_text())
    assert set(SENTENCES) <= set(found)
