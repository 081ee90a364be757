"""Which list guards an edit where nobody chose one: by what is edited, never by a clock or a cache."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
from diff_quickfix.quickfix import SHORT, SHORTER, default_breadth
from diff_quickfix.quickfix.breadth import WIDEST
from diff_quickfix.quickfix.breadth_rules import MOST_WORK
from diff_quickfix.quickfix.concepts.names import name_list

LISTS = (SHORT, *SHORTER, "")


def tower(width=2048, *, whole=False, shortens=False, unknown=False, context_length=77):
    return SimpleNamespace(
        width=width,
        whole=whole,
        shortens=shortens,
        context_length=context_length,
        untrained_tokens=lambda tokens: frozenset(tokens) if unknown else frozenset(),
    )


def captions(name):
    return sum(map(len, name_list(name).captions))


@pytest.mark.parametrize("kinds", [["object"], ["style"], ["object", "style"], ["custom"]])
def test_styles_and_things_are_guarded_by_the_short_list(tokenizer, kinds):
    found = default_breadth(tower(), tokenizer, kinds, 10**8)
    assert found == (SHORT, "") and found.text() == ""


def test_a_large_text_encoder_is_guarded_by_the_largest_part_that_it_reads_at_the_bound(tokenizer):
    """Oracle: weights x 77 tokens x captions, list by list; and none where no part is small enough."""
    edges = {name: MOST_WORK / (77 * captions(name)) for name in LISTS[:-1]}
    for name, following in pairwise(LISTS):
        assert default_breadth(tower(), tokenizer, ["style"], int(0.999 * edges[name])).list == name
        found = default_breadth(tower(), tokenizer, ["style"], int(1.001 * edges[name]))
        assert found.list == following and "take this text encoder long to read" in found.text()
        assert (following or "no list of names guards the edit") in found.text()


def test_only_tokens_that_are_run_count(tokenizer):
    """A text encoder that stops behind a caption's end reads the whole list where one of 77 tokens reads a part."""
    weights = int(2 * MOST_WORK / (77 * captions(SHORT)))
    whole = name_list(SHORT).captions
    longest = max(prompt.eos + 1 for prompt in tokenizer.tokenize_all([c.text for own in whole for c in own]))
    assert longest < 77 / 2
    assert default_breadth(tower(), tokenizer, ["style"], weights).list != SHORT
    assert default_breadth(tower(shortens=True), tokenizer, ["style"], weights).list == SHORT


def test_nothing_guards_where_nobody_looked_or_nothing_can(tokenizer):
    for kinds in (["fact"], ["style", "fact"]):
        found = default_breadth(tower(), tokenizer, kinds, 1)
        assert not found.list and "nobody has looked yet" in found.text() and "fact" in found.text()
    found = default_breadth(tower(WIDEST + 1), tokenizer, ["style"], 1)
    assert not found.list and f"{WIDEST + 1} wide" in found.text()
    assert default_breadth(tower(WIDEST), tokenizer, ["style"], 1).list == SHORT
    found = default_breadth(tower(unknown=True), tokenizer, ["style"], 1)
    assert not found.list and "knows none of the names" in found.text()
