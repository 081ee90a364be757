"""Lists of names: correct files, contexts of use, and what of them names a concept."""

import re
from pathlib import Path

import pytest
from diff_quickfix.quickfix import ConceptEdit
from diff_quickfix.quickfix.concepts import names as module
from diff_quickfix.quickfix.concepts.names import BREADTHS, BROAD, SHORT, SHORTER, name_list, stems
from diff_quickfix.text.prompts import PromptError

DATA = Path(module.__file__).parent / "data"
FILES = sorted((DATA / "names").glob("*.txt"))
# A list is what an edit's file says guarded it: another content needs another name.
DIGESTS = {
    SHORT: "e2749a78d0cbc2b0",
    BROAD: "44289760fa0f43af",
    "short-1-half": "db843ff38ca40e2f",
    "short-1-quarter": "02e2d4d2c0323dba",
    "short-1-eighth": "5828efce63ff3e7c",
}


def left_out(listed, *sources):
    names, captions = listed.naming([ConceptEdit(source, "something else", "object") for source in sources])
    return {listed.names[name] for name in names}, {listed.captions[name][place].text for name, place in captions}


@pytest.mark.parametrize("name", [SHORT, BROAD])
def test_a_list_names_everything_once_in_plain_words(name):
    listed = name_list(name)
    folded = [entry.casefold() for entry in listed.names]
    assert len(set(folded)) == len(folded)
    captions = [caption.text for own in listed.captions for caption in own]
    assert len(set(captions)) == len(captions)
    for entry in (*listed.names, *captions):
        assert entry.isascii() and entry.isprintable() and entry == " ".join(entry.split())
        # Nothing that ComfyUI or another UI reads as weights, embeddings, LoRAs, wildcards, scheduling or comments.
        assert not re.search(r"[()\[\]{}<>|\\:;*#@^~=_\"]|//|embedding|BREAK|AND ", entry), entry


def test_a_changed_list_has_another_name():
    assert DIGESTS.keys() == set(BREADTHS) - {""}
    assert {name: name_list(name).digest[:16] for name in DIGESTS} == DIGESTS


def test_the_broad_list_is_broad_and_every_file_of_it_says_its_source():
    broad = name_list(BROAD)
    assert 4500 < len(broad.names) < 6000
    for path in FILES:
        first, second, *rest = path.read_text(encoding="utf-8").splitlines()
        assert first.startswith("# ") and second.startswith("# Source of facts: ")
        assert rest == sorted(rest, key=str.casefold) and set(rest) <= set(broad.names)


def test_names_stand_in_contexts_of_use_that_vary():
    listed = name_list(BROAD)
    for name, own in zip(listed.names, listed.captions, strict=True):
        assert len(own) == 4 and own[0].text == name and all(name in caption.text for caption in own)
        for caption in own:
            assert "{x}" in caption.context and all(filling in caption.text for filling in caption.fillings)
            # A filling that says the name again would be left out with it.
            assert all(set(stems(filling)).isdisjoint(stems(name)) for filling in caption.fillings)
    used = {filling for own in listed.captions for caption in own for filling in caption.fillings}
    assert {"red", "van gogh", "on grass", "horse"} <= used


def test_the_singular_and_the_plural_are_one_word():
    for one, many in [("star", "stars"), ("cross", "crosses"), ("butterfly", "butterflies"), ("wolf", "wolves")]:
        assert stems(one) == stems(many)
    for one, many in [("knife", "knives"), ("woman", "women"), ("box", "boxes"), ("church", "churches")]:
        assert stems(one) == stems(many)
    for one, other in [("glass", "glas"), ("bus", "bu"), ("cat", "car"), ("iris", "iri"), ("van", "vans ")]:
        assert (stems(one) == stems(other)) == (one == "van")


def test_what_names_a_concept_is_left_out():
    listed = name_list(BROAD)
    names, captions = left_out(listed, "Stars")
    assert {"star", "shooting star", "rock star"} <= names and "starfish" not in names
    assert captions and all("star" in caption.split() for caption in (c.replace(",", "") for c in captions))
    every = {caption.text for own in listed.captions for caption in own if "star" in stems(caption.text)}
    of_names = {c.text for n, own in zip(listed.names, listed.captions, strict=True) if n in names for c in own}
    assert every <= captions | of_names
    names, captions = left_out(listed, "polar bear")
    assert {"bear", "polar bear", "grizzly bear"} <= names and not captions
    names, captions = left_out(listed, "Vincent van Gogh")
    assert names == {"Vincent van Gogh", "van gogh"} and captions
    assert all(caption.endswith("van gogh") for caption in captions)
    # Where a source is small words alone, they count.
    assert "van" in left_out(listed, "van")[0] and "camper van" in left_out(listed, "vans")[0]
    # Templates name concepts too.
    names, captions = left_out(listed, "a photo")
    assert len(captions) > 3000 and all("photo" in caption for caption in captions)
    assert left_out(listed, "\u661f") == (set(), set())
    both = left_out(listed, "polar bear", "snoopy")[0]
    assert both == left_out(listed, "polar bear")[0] | {"Snoopy"}


def test_shorter_lists_lie_within_each_other_and_keep_all_kinds():
    whole = name_list(SHORT)
    captions = dict(zip(whole.names, whole.captions, strict=True))
    shares = {kind: whole.kinds.count(kind) for kind in whole.kinds}
    before = set(whole.names)
    for name, part in SHORTER.items():
        listed = name_list(name)
        assert listed.name == name and set(listed.names) < before and listed.digest != whole.digest
        assert all(own == captions[entry] for entry, own in zip(listed.names, listed.captions, strict=True))
        assert [entry for entry in whole.names if entry in set(listed.names)] == list(listed.names)
        for kind, share in shares.items():
            wanted = share if kind == "color" else share / part
            assert abs(listed.kinds.count(kind) - wanted) <= 1
        before = set(listed.names)


@pytest.mark.parametrize(
    ("source", "out"),
    [
        ("gogh", {"Vincent van Gogh", "van gogh"}),
        ("VAN GOGH", {"Vincent van Gogh", "van gogh"}),
        ("van gogh's", {"Vincent van Gogh", "van gogh"}),
        ("hokusai", {"Katsushika Hokusai", "hokusai"}),
        ("salvador dal\u00ed", {"Salvador Dali", "dali"}),
        ("butterflies", {"butterfly"}),
        ("spiderman", {"Spider-Man"}),
        ("spider man", {"Spider-Man"}),
        ("tea pot", {"teapot"}),
    ],
)
def test_other_spellings_and_parts_of_a_name_are_that_name(source, out):
    assert out <= left_out(name_list(BROAD), source)[0]


def test_what_a_concept_becomes_stays_on_the_list():
    listed = name_list(BROAD)

    def kept(*pairs):
        names, _ = listed.naming([ConceptEdit(*pair, "object") for pair in pairs])
        return {name for place, name in enumerate(listed.names) if place not in names}

    assert {"gray", "circle"} <= kept(("pink", "gray"), ("star", "circle"))
    # A part of the concept's own name too, in either number; but not what is a concept itself.
    assert "bear" in kept(("polar bear", "bear")) and "bear" in kept(("polar bear", "Bears"))
    assert "grizzly bear" not in kept(("polar bear", "bear")) and "bear" not in kept(("polar bear", "dog"))
    assert not {"circle", "star"} & kept(("star", "circle"), ("circle", "square"))
    # A caption whose filling names the concept is left out, whoever's it is.
    names, captions = listed.naming([ConceptEdit("red", "blue", "object")])
    texts = [listed.captions[name][place].text for name, place in captions]
    assert listed.names.index("blue") not in names and texts and all("red" in stems(text) for text in texts)


def test_an_unknown_list_is_refused():
    with pytest.raises(PromptError, match="no list of names 'broad-9'"):
        name_list("broad-9")
