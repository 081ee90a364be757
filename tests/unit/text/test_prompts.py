"""Tokens, padding, subjects and templates."""

import pytest
from diff_quickfix.text.captions import KINDS, PUBLISHED_TEMPLATES, default_target, default_templates, expand
from diff_quickfix.text.prompts import PromptError, PromptTokenizer
from diff_quickfix.text.subjects import SubjectError, find_subject, last_subject_token, naming_any
from hypothesis import given
from hypothesis import strategies as st

BOS, EOS = 49406, 49407
WORDS = ["cat", "van gogh", "r2d2", "category", "vanilla", "grumpy cat", "thomas kinkade", "nemo", "snoopy", "42nd"]
FILLERS = ["a", "the", "house", "of", ",", ".", "in style", "(", ")", "-", "!", "and", "blue"]


@pytest.mark.parametrize("pad", [EOS, 0])
def test_padding_and_markers(tokenizer, pad):
    padded = PromptTokenizer(tokenizer._tokenizer, pad_token=pad).tokenize("a house in the style of van gogh")
    assert len(padded.ids) == 77
    assert padded.ids[0] == BOS and padded.ids[padded.eos] == EOS
    assert set(padded.ids[padded.eos + 1 :]) == {pad}
    assert padded.body == (320, 1212, 530, 518, 1844, 539, 2451, 19697)


@pytest.mark.parametrize(
    ("prompt", "subject", "expected"),
    [
        ("a house in the style of van gogh", "van gogh", [(7, 9)]),
        ("VAN GOGH, by Van  Gogh's hand (van-gogh)", "van gogh", [(1, 3), (5, 7)]),
        ("r2d2 and R2D2.", "r2d2", [(1, 5), (6, 10)]),
        ("cat, cats, category, cat's", "cat", [(1, 2), (7, 8)]),
        ("CAFE\u0301 3", "caf\u00e9", [(1, 2)]),
        ("room 12, 12a, 123", "12", [(2, 4)]),
        ("'snow now", "now", [(3, 4)]),
        ("<|endoftext|> van gogh", "van gogh", [(2, 4)]),
    ],
)
def test_subjects_are_found_by_whole_words(tokenizer, prompt, subject, expected):
    assert find_subject(tokenizer.tokenize(prompt), subject, tokenizer) == tuple(range(*span) for span in expected)


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [("vanilla", "van"), ("a category", "cat"), ("r2d2", "r"), ("r2d2", "d2"), ("r2d2", "2"), ("gogh van", "van gogh")],
)
def test_parts_of_words_are_no_subject(tokenizer, prompt, subject):
    with pytest.raises(SubjectError, match=f"'{subject}' is not among the words of the prompt '{prompt}'"):
        find_subject(tokenizer.tokenize(prompt), subject, tokenizer)


def test_subject_errors_say_which(tokenizer):
    prompt = tokenizer.tokenize("x " * 74 + "van gogh")
    assert len(prompt.cut) == 1
    with pytest.raises(SubjectError, match="cut off: the prompt has 76 tokens and the text encoder reads 75"):
        find_subject(prompt, "van gogh", tokenizer)
    with pytest.raises(SubjectError, match="empty"):
        find_subject(prompt, "  ", tokenizer)
    with pytest.raises(SubjectError, match="marker"):
        find_subject(prompt, "<|endoftext|>", tokenizer)
    assert last_subject_token(tokenizer.tokenize("x " * 73 + "van gogh"), "van gogh", tokenizer) == 75


@given(
    parts=st.lists(st.sampled_from(WORDS + FILLERS), min_size=0, max_size=12),
    subject=st.sampled_from(WORDS),
    upper=st.booleans(),
)
def test_find_subject_agrees_with_the_text(tokenizer, parts, subject, upper):
    """Oracle: whitespace-separated words, compared as strings."""
    text = " ".join(parts)
    words, wanted = text.split(), subject.split()
    count = sum(words[i : i + len(wanted)] == wanted for i in range(len(words)))
    prompt = tokenizer.tokenize(text.upper() if upper else text)
    if not count:
        with pytest.raises(SubjectError):
            find_subject(prompt, subject, tokenizer)
        return
    found = find_subject(prompt, subject, tokenizer)
    assert len(found) == count
    decoded = {tokenizer._tokenizer.decode([prompt.ids[i] for i in span]).replace(" ", "") for span in found}
    assert decoded == {subject.replace(" ", "")}
    assert last_subject_token(prompt, subject, tokenizer) == found[-1][-1] < prompt.eos


@given(text=st.text(max_size=200), subject=st.text(max_size=8))
def test_any_text_is_tokenized_or_refused(tokenizer, text, subject):
    prompt = tokenizer.tokenize(text)
    assert len(prompt.ids) == 77
    assert len(prompt.words) == prompt.eos - 1 + len(prompt.cut)
    try:
        for span in find_subject(prompt, subject, tokenizer):
            assert tuple(prompt.ids[i] for i in span) == tokenizer.word_ids(subject)
            assert 1 <= span.start < span.stop <= prompt.eos
    except SubjectError as error:
        assert str(error)


def test_one_by_one_is_all_at_once(tokenizer):
    texts = ["", "van gogh", "x " * 90, "r2d2's house"]
    assert tokenizer.tokenize_all(texts) == [tokenizer.tokenize(text) for text in texts]
    assert tokenizer.tokenize_all([]) == []


def test_templates():
    assert expand(PUBLISHED_TEMPLATES, "monet") == (
        "monet",
        "A photo of monet",
        "An image of monet",
        "A picture of monet",
    )
    assert {default_templates(kind) for kind in KINDS if kind != "custom"} == {PUBLISHED_TEMPLATES}
    assert [default_target(kind) for kind in KINDS] == ["painting", None, None, None]
    for call in (
        lambda: expand(("a photo",), "x"),
        lambda: expand((), "x"),
        lambda: default_templates("custom"),
        lambda: default_templates("mood"),
    ):
        with pytest.raises(PromptError):
            call()


@given(st.lists(st.sampled_from(["cat", "r2d2", "van gogh", "house", ","]), max_size=90))
def test_the_parts_of_a_prompt_hold_all_of_it(tokenizer, words):
    text = " ".join(words)
    (parts,) = tokenizer.parts_all([text])
    body = tokenizer.word_ids(text)
    assert tuple(token for part in parts for token in part.body) == body
    assert len(parts) == max(1, -(-len(body) // 75))
    for part in parts:
        assert len(part.ids) == 77 and part.ids[0] == BOS and part.ids[part.eos] == EOS and not part.cut
        assert len(part.words) == len(part.body) and set(part.ids[part.eos :]) == {EOS}
    assert tuple(end for part in parts for end in part.words) == tokenizer.tokenize(text).words
    if len(body) <= 75:
        assert parts[0] == tokenizer.tokenize(text)


def test_a_name_is_found_in_all_of_a_long_prompt(tokenizer):
    late = "a house, " * 40 + "by van gogh"
    assert tokenizer.tokenize(late).cut
    assert naming_any([late, "a dog"], ["van gogh"], tokenizer) == {late}


def test_a_tokenizer_without_markers_is_refused():
    with pytest.raises(PromptError, match="expected BOS and EOS"):
        PromptTokenizer(lambda text: {"input_ids": [1]}, pad_token=0)
