"""Which positions learn from which."""

import pytest
from diff_quickfix.quickfix import POSITIONS, match_positions, pair_tokens
from diff_quickfix.text.captions import PUBLISHED_TEMPLATES
from diff_quickfix.text.prompts import PromptError
from diff_quickfix.text.subjects import SubjectError
from hypothesis import given
from hypothesis import strategies as st


def named(pairs):
    """(source caption, position, target caption, position) of each pair."""
    return [
        (pairs.captions[a].text, p, pairs.captions[b].text, q)
        for (a, p), (b, q) in zip(pairs.source.tolist(), pairs.target.tolist(), strict=True)
    ]


def test_van_gogh_gives_the_published_291_pairs(tokenizer):
    pairs = pair_tokens(tokenizer, [("van gogh", "painting", PUBLISHED_TEMPLATES)], POSITIONS[1])
    assert len(pairs) == 291
    expected = []
    for template, before in zip(PUBLISHED_TEMPLATES, (0, 3, 3, 3), strict=True):
        source, target = template.replace("{x}", "van gogh"), template.replace("{x}", "painting")
        s, t = before + 2, before + 1
        expected += [(source, s + j, target, min(t + j, 76)) for j in range(77 - s)]
    assert named(pairs) == expected
    assert pairs.ids.shape == (8, 77)


def test_the_last_subject_token_alone(tokenizer):
    pairs = pair_tokens(tokenizer, [("van gogh", "painting", ("a {x} house", "{x}"))], POSITIONS[0])
    assert named(pairs) == [("a van gogh house", 3, "a painting house", 2), ("van gogh", 2, "painting", 1)]


def test_a_longer_target_runs_out(tokenizer):
    assert match_positions(1, 75, 77, POSITIONS[1]) == (range(1, 77), (75, *[76] * 75))
    pairs = pair_tokens(tokenizer, [("cat", "a striped fish", ("{x}",))], POSITIONS[1])
    assert pairs.source[:, 1].tolist() == list(range(1, 77))
    assert pairs.target[0, 1] == 3
    assert pairs.target[-2:, 1].tolist() == [76, 76]


@given(source=st.integers(1, 75), target=st.integers(1, 75))
def test_positions_pair_up(source, target):
    there, here = match_positions(source, target, 77, POSITIONS[1])
    assert list(there) == list(range(source, 77)) and len(here) == len(there)
    assert all(q == min(p - source + target, 76) for p, q in zip(there, here, strict=True))


def test_shared_captions_are_encoded_once(tokenizer):
    concepts = [(name, "painting", PUBLISHED_TEMPLATES) for name in ("van gogh", "monet", "van gogh")]
    pairs = pair_tokens(tokenizer, concepts, POSITIONS[1])
    assert len(pairs.captions) == 12
    assert len(pairs) > 3 * 280


@pytest.mark.parametrize(
    ("template", "position"),
    [("{x} and a cat", 1), ("a cat and {x}", 4), ("{x}, {x} and a cat", 3), ("a cat, {x}, and a cat.", 4)],
)
def test_the_filled_in_occurrence_counts(tokenizer, template, position):
    pairs = pair_tokens(tokenizer, [("cat", "dog", (template,))], POSITIONS[0])
    assert pairs.source[:, 1].tolist() == [position]


def test_refusals(tokenizer):
    with pytest.raises(PromptError, match=r"no \{x\}"):
        pair_tokens(tokenizer, [("cat", "dog", ("a photo",))], POSITIONS[0])
    with pytest.raises(SubjectError, match="cut off"):
        pair_tokens(tokenizer, [("van gogh", "dog", ("very " * 74 + "{x}",))], POSITIONS[0])
    with pytest.raises(PromptError, match="Unknown positions 'all'"):
        pair_tokens(tokenizer, [("cat", "dog", ("{x}",))], "all")
