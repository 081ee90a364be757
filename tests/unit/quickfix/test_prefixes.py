"""States of beginnings of prompts, beside whole prompts run through the encoder one by one."""

import dataclasses

import pytest
import torch
from diff_quickfix.quickfix import PromptStates
from diff_quickfix.quickfix.encoder.prefixes import PrefixStates
from diff_quickfix.quickfix.encoder.prompt_states import Reading, Stream
from diff_quickfix.quickfix.encoder.towers import TowerError
from diff_quickfix.text.rows import FILL
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import oracle, tower_weights, used_tokens

PROMPTS = ("", "van gogh", "a painting by van gogh", "a painting by a dog", "a painting", "two dogs, " * 20)


@pytest.fixture(scope="module")
def streams(tokenizer):
    """Two encoders of different widths, depths and pads; the first is read before its norm."""
    tokens = used_tokens(tokenizer, "two dogs,", "van gogh", "dog")
    first, second = (
        oracle(tower_weights(width, layers, tokens, seed=width), 4) for width, layers in ((32, 3), (48, 2))
    )
    return Stream(first, 49407, Reading("clip_l", 1, False)), Stream(second, 0, Reading("clip_l", 0, True))


@pytest.fixture(scope="module")
def states(streams, tokenizer):
    matrix = torch.randn(5, 48, generator=torch.Generator().manual_seed(1))
    return PromptStates(streams, tokenizer, "sdxl", lambda: matrix)


def whole(streams, tokenizer):
    """Every prompt at all 77 positions, each encoder by itself."""
    prompts = tokenizer.tokenize_all(list(PROMPTS))
    ids = torch.tensor([prompt.ids for prompt in prompts])
    behind = torch.arange(77) > torch.tensor([prompt.eos for prompt in prompts])[:, None]
    first = dataclasses.replace(streams[0].tower, num_layers=2)
    left = first.hidden_states(ids.masked_fill(behind, 49407), normed=False)
    return prompts, torch.cat((left, streams[1].tower.hidden_states(ids.masked_fill(behind, 0))), dim=-1)


def test_states_are_those_of_whole_prompts(streams, states, tokenizer):
    """At all 77 positions, and at their beginnings alone; again when all is known."""
    prompts, wanted = whole(streams, tokenizer)
    kept = states.remembering()
    for reader in (states, kept, kept):
        for length in (3, 77, 6):
            found = reader.states([prompt.ids[:length] for prompt in prompts])
            torch.testing.assert_close(found, wanted[:, :length], rtol=1e-4, atol=1e-5)
        ends = torch.tensor([prompt.eos for prompt in prompts])
        pooled = wanted[torch.arange(len(ends)), ends, 32:] @ states.projection().T
        torch.testing.assert_close(reader.pooled(PROMPTS), pooled, rtol=1e-4, atol=1e-5)


def test_nothing_is_computed_twice_nor_behind_what_is_asked_for(states, tokenizer, monkeypatch):
    """A beginning that prompts share runs once, and a fill is nothing."""
    ran = []
    kept = states.remembering()
    read = kept.known._read
    monkeypatch.setattr(kept.known, "_read", lambda tokens, *rest: ran.append(len(tokens)) or read(tokens, *rest))
    prompts = tokenizer.tokenize_all(["a painting by van gogh", "a painting by a dog", "a painting"])
    rows = [(*prompt.ids[: prompt.eos], *[FILL] * (6 - prompt.eos)) for prompt in prompts]
    found = kept.states(rows)
    # BOS a painting by van gogh; a dog.
    assert ran == [8] and not found[2, 3:].any() and found[2, :3].any()
    kept.states([rows[0][:4], rows[1][:4]])
    kept.pooled(["a painting"])
    # The end of "a painting", behind what it goes on from.
    assert ran == [8, 4]


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=8), st.integers(1, 12))
def test_each_beginning_is_told_from_all_others(rows, at_once):
    """In any order, in batches of any size, by a reader that tells a beginning by all of its tokens."""

    def read(tokens, behind, places, lookup):
        found = torch.zeros(len(tokens), 1)
        for row in lookup.tolist():
            value = 0.0
            for place, number in enumerate(row):
                if int(places[number]) == place:
                    value = 7 * value + 1 + 2 * float(tokens[number]) + float(behind[number])
                    found[number] = value
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diff_quickfix.quickfix.encoder.prefixes._AT_ONCE", at_once)
        table = PrefixStates(read, 3)
        for start in range(0, len(rows), 3):
            part = rows[start : start + 3]
            filled = [row + [FILL] * (5 - len(row)) for row in part]
            found = table.states(filled)[..., 0]
            for row, values in zip(part, found.tolist(), strict=False):
                value, ended = 0.0, False
                for token, one in zip(row, values, strict=False):
                    value = 7 * value + 1 + 2 * token + ended
                    assert one == value
                    ended = ended or token == 3


def test_what_is_known_is_forgotten_before_it_is_too_much(states, tokenizer, monkeypatch):
    kept = states.remembering()
    rows = [prompt.ids[:9] for prompt in tokenizer.tokenize_all(list(PROMPTS))]
    wanted = kept.states(rows)
    monkeypatch.setattr("diff_quickfix.quickfix.encoder.prefixes._KEPT", 1)
    torch.testing.assert_close(kept.states(rows[:2]), wanted[:2], rtol=1e-4, atol=1e-5)
    assert len(kept.known._known) < 20


def test_after_an_error_nothing_is_taken_for_known(states, tokenizer):
    kept = states.remembering()
    with pytest.raises(TowerError):
        kept.states([[49406, 320, 50000]])
    row = [49406, 320]
    torch.testing.assert_close(kept.states([row]), states.states([row]))


def test_ids_and_positions_that_the_encoder_lacks_are_refused(states):
    for row, message in (([49406, 50000], "vocabulary"), ([49406] * 78, "1 to 77")):
        with pytest.raises(TowerError, match=message):
            states.states([row])
