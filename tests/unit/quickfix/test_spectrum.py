"""One eigendecomposition must give what a solve at each lambda gives."""

import math

import pytest
import torch
from diff_quickfix.quickfix import (
    AUTO,
    GUARDED,
    PAPER,
    ConceptEdit,
    EditSettings,
    HeldSpan,
    SolveError,
    Spectrum,
    Statistics,
    TextTower,
    compute_edit,
    find_lambda,
    preserved_gram,
    trace_lambda,
)
from transformers import CLIPTextConfig, CLIPTextModel

WIDTH, OUT = 32, 24
VAN_GOGH = ConceptEdit("van gogh", "painting")


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(11)
    config = CLIPTextConfig(hidden_size=96, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    return TextTower.from_module(CLIPTextModel(config))


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [6, 100])
@pytest.mark.parametrize("guard", ["nothing", "preserved", "held", "both"])
def test_equals_a_solve_at_each_lambda(n, guard):
    shared = 2 * rows(WIDTH)
    keys, residuals, kept = shared + rows(n, WIDTH, seed=1), rows(n, OUT, seed=2), shared + rows(9, WIDTH, seed=3)
    held = HeldSpan.of(rows(7, WIDTH, seed=4)) if guard in ("held", "both") else None
    gram = preserved_gram(kept, 0.6, held) if guard in ("preserved", "both") else None
    arguments = {"kept": gram, "held": held}
    sums = Statistics.empty(WIDTH, OUT).add(keys, residuals)
    spectrum, moved = Spectrum(sums, **arguments), rows(11, WIDTH, seed=5)
    form = spectrum.form(moved.T @ moved)
    for lam in (1e-3, 0.1, 5.0, 1e3):
        update = sums.solve(lam=lam, **arguments)
        delta = update.delta().double()
        torch.testing.assert_close(spectrum.delta(lam), delta, rtol=1e-4, atol=1e-5)
        assert spectrum.moved(form, lam) == pytest.approx(float((moved.double() @ delta.T).norm()), rel=1e-3)
        efficacy = 1 - math.sqrt(sums.remaining(update) / sums.energy)
        assert spectrum.efficacy(lam) == pytest.approx(efficacy, abs=1e-4)
    if guard == "nothing":
        system = keys.double().T @ keys.double() + 0.1 * torch.eye(WIDTH, dtype=torch.float64)
        assert spectrum.condition(0.1) == pytest.approx(float(torch.linalg.cond(system)), rel=1e-3)


def test_more_lambda_is_less_of_everything():
    keys, residuals = rows(20, WIDTH), rows(20, OUT, seed=1)
    spectrum = Spectrum(Statistics.empty(WIDTH, OUT).add(keys, residuals))
    curve = trace_lambda(spectrum, [keys.T @ keys])
    assert list(curve.efficacy) == sorted(curve.efficacy, reverse=True)
    assert list(curve.drift) == sorted(curve.drift, reverse=True)
    assert list(curve.condition) == sorted(curve.condition, reverse=True)


def test_the_knee_is_where_efficacy_stops_to_pay_for_drift():
    """Two directions: one that only the concept has, one that is shared with what should stay."""
    eye = torch.eye(WIDTH)
    keys = torch.stack((10 * eye[0], eye[1]))
    spectrum = Spectrum(Statistics.empty(WIDTH, OUT).add(keys, rows(2, OUT)))
    shared = torch.outer(eye[1], eye[1])
    cheap, costly = (trace_lambda(spectrum, [size * shared]) for size in (1e-10, 1e-2))
    # The concept's own direction is reached for all lambda below 100; the shared one only for those below 1.
    assert cheap.best <= 1e-3
    assert 1 < costly.best < 100
    worth = [e - d / 0.1 for e, d in zip(costly.efficacy, costly.drift, strict=True)]
    assert worth[costly.knee] == max(worth)
    assert "<- knee" in costly.text() and f"{costly.best:.4g}" in costly.text()
    assert costly.as_dict()["best"] == costly.best and costly.as_dict()["lambdas"] == list(costly.lambdas)


def test_nothing_to_do_has_no_curve_to_speak_of():
    curve = trace_lambda(Spectrum(Statistics.empty(WIDTH, OUT)), [torch.eye(WIDTH)])
    assert set(curve.efficacy) == {1.0} and set(curve.drift) == {0.0}


@pytest.mark.parametrize("lambdas", [(), (0.1, 0.01), (0.1, 0.1), (0.0, 1.0), (float("nan"),)])
def test_refuses_lambdas_that_are_none(lambdas):
    spectrum = Spectrum(Statistics.empty(WIDTH, OUT).add(rows(2, WIDTH), rows(2, OUT)))
    with pytest.raises(SolveError, match="lambda"):
        trace_lambda(spectrum, [], lambdas)


@pytest.mark.parametrize("settings", [PAPER, GUARDED, EditSettings(hold=("",), layer=1)])
def test_the_curve_tells_what_edits_do(tower, tokenizer, settings):
    """Against whole edits and their reports, but for the drift's root mean square."""
    import dataclasses

    curve = find_lambda(tower, tokenizer, [VAN_GOGH], settings, (0.01, 1.0))
    for i, lam in enumerate(curve.lambdas):
        report = compute_edit(tower, tokenizer, [VAN_GOGH], dataclasses.replace(settings, lam=lam)).report
        assert curve.efficacy[i] == pytest.approx(report.efficacy, abs=1e-3)
        least = max(report.drift, report.empty_prompt_drift)
        assert least * 0.999 <= curve.drift[i] <= 1.5 * least


def test_auto_is_the_found_lambda_and_says_so(tower, tokenizer):
    curve = find_lambda(tower, tokenizer, [VAN_GOGH], AUTO)
    edit = compute_edit(tower, tokenizer, [VAN_GOGH], AUTO)
    assert edit.settings.lam == curve.best
    import dataclasses

    again = compute_edit(tower, tokenizer, [VAN_GOGH], dataclasses.replace(GUARDED, lam=curve.best))
    assert torch.equal(again.delta(), edit.delta())
    assert "lambda" in dict(edit.report.milliseconds) and "lambda" not in dict(again.report.milliseconds)
