"""Changes of an edit as users write them."""

import pytest
import torch
from diff_quickfix.quickfix import PAPER, Changes, ConceptEdit, Ledger, LedgerError, compute_edit, parse_changes
from diff_quickfix.quickfix.concepts.lines import content_lines
from diff_quickfix.text.prompts import PromptError
from hypothesis import given
from hypothesis import strategies as st

VAN_GOGH, MONET = ConceptEdit("van gogh", "painting"), ConceptEdit("claude monet", "painting")
SNOOPY = ConceptEdit("snoopy", "dog", "object")


@pytest.fixture(scope="module")
def ledger(small_tower, tokenizer):
    return Ledger.of(small_tower, tokenizer, [VAN_GOGH, MONET], PAPER)


def test_all_at_once_is_the_edit_of_what_is_left(ledger, small_tower, tokenizer):
    more = "snoopy -> dog | kind=object\nclaude monet -> painting|weight=0.5"
    changes = parse_changes("# gone\n Van Gogh \n", "claude monet : 0.5\n\n", more)
    assert changes == Changes(
        ("Van Gogh",), (("claude monet", 0.5),), (SNOOPY, ConceptEdit("claude monet", "painting", weight=0.5))
    )
    changed = changes.apply(ledger)
    wanted = (ConceptEdit("claude monet", "painting", weight=0.5), SNOOPY)
    assert changed.concepts == wanted
    anew = compute_edit(small_tower, tokenizer, wanted, PAPER).delta()
    assert (changed.delta() - anew).norm() < 1e-6 * anew.norm()
    assert ledger.concepts == (VAN_GOGH, MONET)


NAMES = ["van gogh", "Van  Gogh", "claude monet", "snoopy", "nemo"]


@given(
    st.lists(st.sampled_from(NAMES), max_size=2),
    st.lists(st.tuples(st.sampled_from(NAMES), st.floats(0.1, 9)), max_size=2),
    st.lists(st.sampled_from(["van gogh -> painting", "snoopy -> dog | kind=object", "nemo -> fish"]), max_size=2),
)
def test_a_list_changes_as_its_ledger_does(ledger, tokenizer, drop, reweight, add):
    changes = parse_changes(
        "\n".join(drop), "\n".join(f"{name}: {weight!r}" for name, weight in reweight), "\n".join(add)
    )
    try:
        wanted = changes.apply(ledger).concepts
    except ValueError as error:
        with pytest.raises(type(error)) as told:
            changes.made_on(ledger.concepts, tokenizer)
        assert str(told.value) == str(error)
    else:
        assert changes.made_on(ledger.concepts, tokenizer) == wanted


def test_long_lists_change_in_linear_time(tokenizer, monkeypatch):
    """Counted: texts tokenized, and concepts compared."""
    concepts = tuple(ConceptEdit(f"artist {number}", "painting") for number in range(3000))
    changes = Changes(
        drop=tuple(f"artist {number}" for number in range(0, 3000, 3)),
        reweight=tuple((f"artist {number}", 2.0) for number in range(1, 3000, 3)),
        add=tuple(ConceptEdit(f"painter {number}", "painting") for number in range(500)),
    )
    counted = {"texts": 0, "compared": 0}
    tokenize, equal = tokenizer.word_ids_all, ConceptEdit.__eq__
    monkeypatch.setattr(
        type(tokenizer), "word_ids_all", lambda _, t: (counted.update(texts=counted["texts"] + len(t)), tokenize(t))[1]
    )
    monkeypatch.setattr(
        ConceptEdit, "__eq__", lambda a, b: (counted.update(compared=counted["compared"] + 1), equal(a, b))[1]
    )
    changed = changes.made_on(concepts, tokenizer)
    assert len(changed) == 2500 and sum(concept.weight == 2 for concept in changed) == 1000
    assert counted["texts"] <= 3000 + 2000 and counted["compared"] <= 10_000


def test_what_is_dropped_may_come_back_as_something_else(ledger):
    changed = parse_changes("van gogh", "", "van gogh -> photo").apply(ledger)
    assert changed.concepts == (MONET, ConceptEdit("van gogh", "photo"))


def test_nothing_changes_nothing(ledger):
    assert parse_changes().apply(ledger) is ledger
    assert parse_changes("", "", "van gogh -> painting").apply(ledger) is ledger, "it is there already"


@pytest.mark.parametrize(
    ("drop", "reweight", "add", "error", "message"),
    [
        ("nemo", "", "", LedgerError, "no concept 'nemo'; it holds 'van gogh', 'claude monet'"),
        ("", "nemo: 2", "", LedgerError, "no concept 'nemo'"),
        ("van gogh", "van gogh: 2", "", LedgerError, "no concept 'van gogh'; it holds 'claude monet'"),
        ("", "\nvan gogh 2", "", PromptError, "line 2: cannot read 'van gogh 2'"),
        ("", "van gogh: 0", "", PromptError, "line 1: .* drop it"),
        ("", "van gogh: nan", "", PromptError, "line 1"),
        ("", ": 2", "", PromptError, "line 1"),
        ("", "", "van gogh -> photo", PromptError, "two targets"),
        ("", "", "van gogh ->", PromptError, "line 1, column 12: nothing stands after"),
    ],
)
def test_refusals(ledger, drop, reweight, add, error, message):
    with pytest.raises(error, match=message):
        parse_changes(drop, reweight, add).apply(ledger)


@given(
    names=st.lists(
        st.text(st.characters(codec="ascii", categories=("L", "N", "Z", "P")), min_size=1)
        .map(str.strip)
        .filter(lambda name: name and content_lines(name) == [(1, name)] and not set(name) & set("\"'`")),
        max_size=4,
    ),
    weight=st.floats(1e-6, 1e6),
)
def test_written_changes_come_back(names, weight):
    changes = parse_changes("\n".join(names), "\n".join(f"{name}: {weight!r}" for name in names))
    assert changes.drop == tuple(names) and changes.reweight == tuple((name, weight) for name in names)


def test_dropping_everything_leaves_no_edit(ledger):
    empty = parse_changes("van gogh\nclaude monet").apply(ledger)
    with pytest.raises(PromptError, match="holds no concepts"):
        empty.solve()
    assert not torch.any(empty.sums().gram)
