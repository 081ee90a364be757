"""Rows of token ids: which of them are a text's own, where a subject stands, what is aligned with what."""

import pytest
from diff_quickfix.text.prompts import PromptError
from diff_quickfix.text.rows import FILL, Row, RowTokenizer, aligned, common_ends, tokens_of
from diff_quickfix.text.subjects import SubjectError
from hypothesis import given
from hypothesis import strategies as st

FRONT, TAIL, PAD = (900001, 900002), (900003, 900001), 0
WORDS = st.text("abcxyz7 \u00e9\u0436\u30b4,", min_size=1, max_size=12).filter(lambda text: text == text.strip() != "")
TEMPLATES = st.lists(st.sampled_from(["a photo of ", " and ", ", at night", "x", "by "]), min_size=2, max_size=4)


def glued(text):
    """Tokens as byte pairs and sentence pieces are: a space belongs to the letter behind it."""
    ids, space = [], 0
    for character in text:
        if character == " ":
            space = 1
        else:
            ids.append(2 * ord(character) + space)
            space = 0
    return tuple(ids)


def made(template=(FRONT, TAIL), pads=0, length=64):
    front, tail = template

    def read(text):
        ids = (*front, *glued(text), *tail)
        return Row(ids + (PAD,) * max(0, pads - len(ids)), len(ids))

    return RowTokenizer(read, context_length=length, unreadable=frozenset({2 * ord("\u0436"), 2 * ord("\u0436") + 1}))


TOKENIZERS = {"template": made(), "end alone": made(((), (1,)), pads=48), "bare end": made(((), (1,)))}


@given(st.sampled_from(sorted(TOKENIZERS)), WORDS)
def test_a_texts_own_tokens_are_those_between_the_templates(name, text):
    tokenizer = TOKENIZERS[name]
    (prompt,) = tokenizer.tokenize_all([text])
    assert prompt.body == glued(text) == tokenizer.word_ids(text)
    assert len(prompt.ids) == 64 and prompt.last_word == prompt.start + len(prompt.body) - 1
    own, beside = tokens_of(prompt.ids)
    assert beside == [] and prompt.ids[prompt.eos] == own[prompt.eos] and set(own[prompt.eos + 1 :]) <= {PAD}
    assert not tokenizer.tokenize_all([""])[0].body


@given(st.sampled_from(sorted(TOKENIZERS)), TEMPLATES, WORDS.filter(lambda text: "\u0436" not in text))
def test_a_subject_is_found_wherever_a_template_puts_it(name, parts, concept):
    tokenizer, template = TOKENIZERS[name], "{x}".join(parts)
    (caption,) = tokenizer.tokenize_all([template.replace("{x}", concept)])
    spans = tokenizer.spans(template, concept)
    before = len(glued(parts[0]))
    for span, part in zip(spans, parts[1:], strict=True):
        start = caption.start + before
        assert span == range(start, start + len(glued(concept)))
        before += len(glued(concept)) + len(glued(part))


def test_letters_without_tokens_and_nothing_are_no_subjects():
    for tokenizer in TOKENIZERS.values():
        for concept in ("\u0436", "a \u0436", "", "  "):
            with pytest.raises(SubjectError):
                tokenizer.spans("a {x}", concept)
        with pytest.raises(PromptError, match="Shorten it"):
            tokenizer.tokenize_all(["a" * 64])


def test_another_encoders_tokens_are_told_from_those_that_count():
    tokenizer = RowTokenizer(lambda text: Row((5, 1), 2, (0, 7, len(text))), context_length=9)
    (prompt,) = tokenizer.tokenize_all(["abc"])
    assert tokens_of(prompt.ids) == ([5, 1], [0, 7, 3]) and prompt.ids[-4:] == (FILL,) * 4 and prompt.eos == 1


@given(st.lists(st.integers(0, 3), max_size=6), st.lists(st.integers(0, 3), max_size=6))
def test_common_ends_never_overlap_and_are_as_long_as_can_be(one, other):
    start, tail = common_ends(one, other)
    assert start + tail <= min(len(one), len(other)) and one[:start] == other[:start]
    assert one[len(one) - tail :] == other[len(other) - tail :]
    assert one == other or start == min(len(one), len(other)) or one[start] != other[start]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 4)), max_size=3), st.integers(0, 3))
def test_alignment_is_one_to_one_outside_of_subjects_and_spread_evenly_within(parts, rest):
    """Against a caption written out as letters: what stands beside what is outside must be the same letter."""
    source, target, spans = [], [], ([], [])
    for number, (words, here, there) in enumerate(parts):
        for row, size, found in ((source, here, spans[0]), (target, there, spans[1])):
            row += [("word", number, place) for place in range(words)]
            found.append(range(len(row), len(row) + size))
            row += [("subject", number, place / size) for place in range(size)]
    for row in (source, target):
        row += [("rest", place) for place in range(rest)]
    rows, beside = aligned(*spans, (len(source), len(target)))
    assert rows == list(range(len(source))) and beside == sorted(beside)
    for one, other in zip(rows, beside, strict=True):
        if source[one][0] == "subject":
            assert source[one][:2] == target[other][:2]
        else:
            assert source[one] == target[other]
    for here, there in zip(*spans, strict=True):
        of = dict(zip(rows, beside, strict=True))
        assert of[here[-1]] == there[-1]
        assert len(here) < len(there) or {of[place] for place in here} == set(there)
