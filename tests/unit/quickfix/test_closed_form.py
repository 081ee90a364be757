"""The closed form against a dense fp64 solve, and the algebra it must obey (E1 to E8, E12)."""

import pytest
import torch
from diff_quickfix.quickfix import LowRank, SolveError, Statistics, preserved_gram, solve, solve_residuals
from diff_quickfix.quickfix.solver.nullspace import HeldSpan
from diff_quickfix.quickfix.solver.preserved import PreservedRows
from hypothesis import given
from hypothesis import strategies as st

LAMBDAS = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]


def problem(n, width=48, out=40, preserve=0, seed=0):
    """Nearly parallel keys, as a text encoder's are: mean cosine about 0.8."""
    make = torch.Generator().manual_seed(seed)
    shared = 2 * torch.randn(width, generator=make)
    weight = torch.randn(out, width, generator=make) / width**0.5
    keys = shared + torch.randn(n, width, generator=make)
    values = torch.randn(n, out, generator=make)
    kept = shared + torch.randn(preserve, width, generator=make) if preserve else None
    return weight, keys, values, kept


def dense(weight, keys, values, lam, kept=None, beta=1.0, counts=None):
    """delta = W* - W0 from the normal equations of the objective, in fp64."""
    w, k, v = weight.double(), keys.double(), values.double()
    d = torch.ones(len(k)).double() if counts is None else counts.double()
    penalty = lam * torch.eye(w.shape[1], dtype=torch.float64)
    if kept is not None:
        penalty += beta * kept.double().T @ kept.double()
    cross = (v * d[:, None]).T @ k + w @ penalty
    return torch.linalg.solve((k * d[:, None]).T @ k + penalty, cross.T).T - w


def error(update, exact):
    delta = update.delta() if isinstance(update, LowRank) else update
    return float((delta.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("lam", LAMBDAS)
@pytest.mark.parametrize("n", [1, 3, 47, 48, 200])
@pytest.mark.parametrize("preserve", [0, 5, 100])
def test_equals_the_dense_solution_at_every_lambda(n, preserve, lam):
    weight, keys, values, kept = problem(n, preserve=preserve)
    update = solve(weight, keys, values, lam=lam, preserve=kept, preserve_weight=0.7)
    assert update.up.dtype == update.down.dtype == torch.float32
    assert error(update, dense(weight, keys, values, lam, kept, 0.7)) < 1e-5
    assert update.rank <= min(n, 48)
    torch.testing.assert_close(update.down @ update.down.T, torch.eye(update.rank), atol=1e-5, rtol=0)


@pytest.mark.parametrize("lam", [1e-4, 1e-2])
def test_real_size_keeps_three_digits_where_the_usual_formula_does_not(lam):
    weight, keys, values, kept = problem(100, width=768, out=320, preserve=100)
    exact = dense(weight, keys, values, lam, kept)
    assert error(solve(weight, keys, values, lam=lam, preserve=kept), exact) < 1e-5
    penalty = lam * torch.eye(768) + kept.T @ kept
    usual = (values.T @ keys + weight @ penalty) @ torch.inverse(keys.T @ keys + penalty) - weight
    assert error(usual, exact) > 1e-3


@given(n=st.integers(1, 60), preserve=st.integers(0, 60), lam=st.sampled_from(LAMBDAS), seed=st.integers(0, 99))
def test_is_stationary_and_a_minimum(n, preserve, lam, seed):
    """E1: the objective's gradient vanishes at W0 + delta, to the accuracy of delta."""
    weight, keys, values, kept = problem(n, width=24, out=16, preserve=preserve, seed=seed)
    delta = solve(weight, keys, values, lam=lam, preserve=kept).delta().double()
    k, v, w = keys.double(), values.double(), weight.double()
    gradient = (w @ k.T + delta @ k.T - v.T) @ k + lam * delta
    start = (w @ k.T - v.T) @ k
    size = k.T @ k + lam * torch.eye(24, dtype=torch.float64)
    if kept is not None:
        gradient += delta @ kept.double().T @ kept.double()
        size += kept.double().T @ kept.double()
    assert gradient.norm() <= 1e-6 * (start.norm() + delta.norm() * torch.linalg.matrix_norm(size, 2))


def test_rank_counts_distinct_keys():
    """E3, and a multiple of a key is a heavier key (E7)."""
    weight, keys, values, _ = problem(6)
    copies = keys.repeat(4, 1)
    update = solve(weight, copies, values.repeat(4, 1), lam=0.1)
    assert update.rank == 6
    singular = torch.linalg.svdvals(update.delta().double())
    assert singular[6:].max() < 1e-6 * singular[0]
    assert error(update, dense(weight, keys, values, 0.1, counts=torch.full((6,), 4.0))) < 1e-5


def test_equal_keys_with_different_values_meet_in_the_middle():
    weight, keys, values, _ = problem(2)
    update = solve(weight, keys[[0, 0]], values, lam=1e-4)
    assert update.rank == 1
    torch.testing.assert_close((weight + update.delta()) @ keys[0], values.mean(0), atol=1e-4, rtol=1e-3)


@given(seed=st.integers(0, 99), order=st.permutations(range(7)))
def test_order_and_duplicates(seed, order):
    """E7."""
    weight, keys, values, kept = problem(7, preserve=4, seed=seed)
    update = solve(weight, keys, values, lam=0.01, preserve=kept).delta()
    shuffled = solve(weight, keys[list(order)], values[list(order)], lam=0.01, preserve=kept.flip(0)).delta()
    torch.testing.assert_close(update, shuffled, rtol=1e-4, atol=1e-6)
    counts = torch.tensor([2.0, 1, 1, 1, 1, 1, 1])
    twice = solve(weight, keys[[0, *range(7)]], values[[0, *range(7)]], lam=0.01, preserve=kept).delta()
    weighted = solve(weight, keys, values, lam=0.01, preserve=kept, pair_weights=counts).delta()
    torch.testing.assert_close(twice, weighted, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(weighted, update, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n", [5, 100])
def test_values_in_place_need_no_edit(n):
    """E5: exactly nothing, not nearly nothing."""
    weight, keys, _, kept = problem(n, preserve=3)
    update = solve(weight, keys, keys @ weight.T, lam=1e-4, preserve=kept)
    assert update.rank == 0
    assert torch.equal(update.delta(), torch.zeros_like(weight))
    assert Statistics.empty(48, 40).add(keys, torch.zeros(n, 40)).solve(lam=0.1).rank == 0
    assert solve(weight, keys[:0], keys[:0] @ weight.T, lam=1.0).delta().shape == weight.shape


def test_a_small_change_is_no_rounding():
    weight, keys, _, _ = problem(5)
    values = keys @ weight.T
    values[0] *= 1 + 1e-4
    assert solve(weight, keys, values, lam=1e-2).delta().norm() > 0


def test_limits_of_lambda():
    """E6: towards 0 independent keys give their values, towards infinity nothing changes."""
    weight, keys, values, _ = problem(6)
    strong = weight + solve(weight, keys, values, lam=1e-7).delta()
    torch.testing.assert_close(keys @ strong.T, values, atol=1e-4, rtol=1e-4)
    sizes = [float(solve(weight, keys, values, lam=lam).delta().norm()) for lam in (*LAMBDAS, 1e9)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 1e-6 * sizes[0]


def test_preserved_keys_keep_their_outputs():
    """E4 and E12: preserving adds no rank; at a large weight it is the null-space projection."""
    weight, keys, values, kept = problem(6, preserve=10)
    free = solve(weight, keys, values, lam=1e-2)
    hit = [float((kept @ free.delta().T).norm())]
    for beta in (1.0, 100.0, 1e6):
        update = solve(weight, keys, values, lam=1e-2, preserve=kept, preserve_weight=beta)
        assert update.rank <= free.rank
        hit.append(float((kept @ update.delta().T).norm()))
    assert hit == sorted(hit, reverse=True)
    assert hit[-1] < 1e-6 * hit[0]
    torch.testing.assert_close(keys @ (weight + update.delta()).T, values, atol=0.05, rtol=0)
    ignored = solve(weight, keys, values, lam=1e-2, preserve=kept, preserve_weight=0.0)
    torch.testing.assert_close(ignored.delta(), free.delta())


@given(n=st.integers(2, 90), cut=st.integers(1, 89), lam=st.sampled_from(LAMBDAS))
def test_streamed_equals_at_once(n, cut, lam):
    """E8."""
    weight, keys, values, kept = problem(n, preserve=6)
    residuals = values - keys @ weight.T
    cut = min(cut, n - 1)
    counts = torch.arange(1.0, n + 1)
    empty = Statistics.empty(48, 40)
    first = empty.add(keys[:cut], residuals[:cut], counts[:cut])
    sums = first + empty.add(keys[cut:], residuals[cut:], counts[cut:])
    streamed = sums.solve(lam=lam, kept=preserved_gram(kept))
    exact = dense(torch.zeros_like(weight), keys, residuals, lam, kept, counts=counts)
    assert error(streamed, exact) < 1e-5
    left = residuals.double() - keys.double() @ streamed.delta().double().T
    assert sums.pairs == n
    assert sums.remaining(streamed) == pytest.approx(float((counts[:, None] * left.square()).sum()), rel=1e-4, abs=1e-6)


def test_truncated_to_what_carries_it():
    weight, keys, values, _ = problem(30)
    update = solve(weight, keys, values, lam=1.0)
    ranks = []
    for tolerance in (1e-6, 0.3, 0.7):
        small = update.truncated(tolerance)
        assert error(small, update.delta().double()) <= tolerance * 1.01 + 1e-6
        ranks.append(small.rank)
        singular = torch.linalg.svdvals(update.delta().double())
        if small.rank:
            assert singular[small.rank - 1 :].norm() > tolerance * singular.norm()
    assert ranks[0] > ranks[1] > ranks[2] > 0


@pytest.mark.parametrize("rank", [0, 1, 7, 60])
def test_coordinates_have_the_angles_and_lengths_of_the_change(rank):
    make = torch.Generator().manual_seed(rank)
    up, down = torch.randn(40, rank, generator=make), torch.randn(rank, 48, generator=make)
    keys = torch.randn(3, 5, 48, generator=make)
    found = LowRank(up, down).coordinates(keys)
    change = keys.double() @ (up.double() @ down.double()).T
    assert found.shape == (3, 5, min(rank, 40))
    products = [x.double().flatten(0, 1) @ x.double().flatten(0, 1).T for x in (found, change)]
    torch.testing.assert_close(*products, rtol=1e-5, atol=1e-5 * max(1.0, float(products[1].abs().max())))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lam": 0.0}, "lambda is 0.0"),
        ({"lam": -1.0}, "lambda is -1.0"),
        ({"lam": float("nan")}, "lambda is nan"),
        ({"lam": float("inf")}, "lambda is inf"),
        ({"preserve_weight": -1.0}, "preserve_weight is -1.0"),
        ({"keys": torch.ones(3, 5)}, r"keys has shape \(3, 5\); expected \(n, 4\)"),
        ({"keys": torch.ones(4)}, "keys has shape"),
        ({"values": torch.ones(3, 5)}, r"values has shape \(3, 5\)"),
        ({"values": torch.ones(2, 3)}, "Got 3 keys and 2 values"),
        ({"keys": torch.full((3, 4), float("nan"))}, "keys holds NaN"),
        ({"values": torch.full((3, 3), float("inf"))}, "values holds NaN or infinity"),
        ({"weight": torch.full((3, 4), float("nan"))}, "weight holds NaN"),
        ({"weight": torch.ones(4)}, "weight has shape"),
        ({"preserve": torch.ones(2, 3)}, r"preserve has shape \(2, 3\)"),
        ({"preserve": torch.full((2, 4), float("nan"))}, "preserve holds NaN"),
        ({"pair_weights": torch.ones(2)}, r"pair_weights has shape \(2,\)"),
        ({"pair_weights": torch.tensor([1.0, 0.0, 1.0])}, "above 0"),
    ],
)
def test_refuses_by_name(change, message):
    arguments = {"weight": torch.eye(3, 4), "keys": torch.eye(3, 4), "values": torch.ones(3, 3), "lam": 0.1, **change}
    with pytest.raises(SolveError, match=message):
        solve(**arguments)


def test_residuals_need_a_key_each():
    with pytest.raises(SolveError, match="Got 2 keys and 1 residuals"):
        solve_residuals(torch.ones(2, 4), torch.ones(1, 3), lam=0.1)


@given(st.integers(1, 12), st.integers(1, 20), st.integers(0, 3), st.booleans())
def test_preserved_rows_give_what_their_gram_matrix_gives(n, preserve, seed, hold):
    """Fewer keys than dimensions by a system of keys, more by one of dimensions: one update, of the keys' rank."""
    weight, keys, values, kept = problem(n, width=24, out=16, preserve=preserve, seed=seed)
    residuals, counts = values - keys @ weight.T, torch.arange(1.0, n + 1)
    held = HeldSpan.of(torch.randn(3, 24, generator=torch.Generator().manual_seed(9))) if hold else None
    rows = PreservedRows.of(kept, 0.7, held)
    wanted = solve_residuals(
        keys, residuals, lam=0.05, kept=preserved_gram(kept, 0.7, held), pair_weights=counts, held=held
    )
    found = solve_residuals(keys, residuals, lam=0.05, kept=rows, pair_weights=counts, held=held)
    assert found.rank == min(n, 24) and float((found.delta() - wanted.delta()).norm()) < 1e-5 * wanted.delta().norm()
    torch.testing.assert_close(found.down @ found.down.T, torch.eye(found.rank), rtol=0, atol=1e-5)
    sums = Statistics.empty(24, 16).add(keys, residuals, counts)
    torch.testing.assert_close(
        sums.delta(lam=0.05, kept=rows, held=held), wanted.delta().double(), rtol=1e-3, atol=1e-5
    )
    grams = (rows, preserved_gram(kept, 0.7, held))
    one, other = (sums.condition(lam=0.05, kept=gram, held=held) for gram in grams)
    assert one == pytest.approx(other, rel=1e-6)
    if held is not None:
        assert held.share_of(keys, counts) == pytest.approx(held.share(sums.gram), rel=1e-6)
