"""The restoring MODEL finds the prompt's half of the guidance under every guider, and the step in every schedule."""

import importlib

import pytest
import torch
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras import nodes_perpneg
from conditioning import encode
from hypothesis import given
from hypothesis import strategies as st
from runs import PROMPT, STEPS, conditioning, sample

pytestmark = pytest.mark.usefixtures("inference")

SITE = "unet.input.4.1.self_attn"
NEGATIVE, OTHER, CFG = "blue square", "a green star", 4.0


def first(node, *args):
    """The output of a stock node."""
    return getattr(node, "execute", None)(*args).args[0]


GUIDERS = {
    "CFGGuider": lambda model, positive, negative, other: first(custom.CFGGuider, model, positive, negative, CFG),
    # neg + cfg2 (middle - neg) + cfg1 (positive - middle), with the middle the negative.
    "DualCFGGuider, regular": lambda model, positive, negative, other: first(
        custom.DualCFGGuider, model, positive, negative, negative, CFG, 7.0, "regular"
    ),
    "DualCFGGuider, nested": lambda model, positive, negative, other: first(
        custom.DualCFGGuider, model, positive, negative, negative, CFG / 2, 2.0, "nested"
    ),
    # empty + cfg (positive - empty - 0), with the negative prompt as the empty one; the other has no weight.
    "PerpNegGuider": lambda model, positive, negative, other: first(
        nodes_perpneg.PerpNegGuider, model, positive, other, negative, CFG, 1e-12
    ),
}
if hasattr(custom, "DualModelGuider"):
    GUIDERS["DualModelGuider"] = lambda model, positive, negative, other: first(
        custom.DualModelGuider, model, positive, CFG, model, negative
    )


def paint(guider, sigmas, *, noise=True, latent=None, sampler="euler"):
    """What SamplerCustomAdvanced gives."""
    latent = torch.zeros(1, 16, 16, 16) if latent is None else latent
    noise = first(custom.RandomNoise, 5) if noise else first(custom.DisableNoise)
    sampler = first(custom.KSamplerSelect, sampler)
    return first(custom.SamplerCustomAdvanced, noise, guider, sampler, sigmas, {"samples": latent})["samples"]


@pytest.fixture
def schedule(shapes):
    return first(custom.BasicScheduler, shapes[0], "normal", STEPS, 1.0)


@pytest.fixture
def prompts(shapes, corrupt):
    """(corrupted, clean, CORRUPTION, negative, other)."""
    clip = shapes[1]
    return (*corrupt(clip), conditioning(clip, NEGATIVE), conditioning(clip, OTHER))


@pytest.mark.parametrize("name", list(GUIDERS)[1:])
def test_guiders_that_compute_the_same_restore_the_same(shapes, prompts, restore_unet, schedule, name):
    """Oracle: with these weights each of them is plain guidance, which a loop written by hand was compared with."""
    hidden, _, corruption, negative, other = prompts
    model = restore_unet(shapes[0], corruption, SITE, 1, 3)
    wanted = paint(GUIDERS["CFGGuider"](model, hidden, negative, other), schedule)
    got = paint(GUIDERS[name](model, hidden, negative, other), schedule)
    torch.testing.assert_close(got, wanted, atol=2e-3, rtol=1e-3)
    untouched = paint(GUIDERS[name](shapes[0], hidden, negative, other), schedule)
    assert not torch.allclose(got, untouched, atol=1e-2)


def test_regional_and_combined_conditionings_keep_their_places(shapes, prompts, restore_unet, schedule):
    """Oracle: the same composition with the clean prompt in the corrupted one's place."""
    import nodes as stock

    hidden, clean, corruption, negative, other = prompts
    model = restore_unet(shapes[0], corruption, "*.cross_context")

    def composed(positive):
        (left,) = stock.ConditioningSetArea().append(positive, 64, 128, 0, 0, 1.0)
        (right,) = stock.ConditioningSetMask().append(other, torch.eye(16)[None], "default", 0.8)
        return [*right, *left]

    wanted = paint(GUIDERS["CFGGuider"](shapes[0], composed(clean), negative, other), schedule)
    got = paint(GUIDERS["CFGGuider"](model, composed(hidden), negative, other), schedule)
    torch.testing.assert_close(got, wanted, atol=2e-3, rtol=1e-3)
    untouched = paint(GUIDERS["CFGGuider"](shapes[0], composed(hidden), negative, other), schedule)
    assert not torch.allclose(wanted, untouched, atol=1e-2)


def test_an_area_of_the_whole_picture_is_no_area(shapes, prompts, restore_unet, schedule):
    """ComfyUI gives the negative a copy of the positive's area, identity and all."""
    import nodes as stock

    hidden, _, corruption, negative, other = prompts
    model = restore_unet(shapes[0], corruption, SITE, 1, 3)
    (whole,) = stock.ConditioningSetArea().append(hidden, 128, 128, 0, 0, 1.0)
    wanted, got = (paint(GUIDERS["CFGGuider"](model, one, negative, other), schedule) for one in (hidden, whole))
    torch.testing.assert_close(got, wanted, atol=2e-3, rtol=1e-3)


def test_two_restoring_models_in_a_row_restore_both(shapes, prompts, restore_unet, schedule):
    hidden, _, corruption, negative, other = prompts
    together = restore_unet(shapes[0], corruption, SITE, 0, 3)
    chained = restore_unet(restore_unet(shapes[0], corruption, SITE, 0, 1), corruption, SITE, 1, 3)
    wanted, got = (
        paint(GUIDERS["CFGGuider"](model, hidden, negative, other), schedule) for model in (together, chained)
    )
    torch.testing.assert_close(got, wanted, atol=2e-3, rtol=1e-3)


def changed_positive(kind, clip, corrupt, prompts):
    """A positive conditioning that is not Corrupt Prompt's corrupted one."""
    import nodes as stock

    hidden, clean, *_ = prompts
    if kind == "the clean one":
        return clean
    if kind == "another prompt":
        return conditioning(clip, "a green star")
    if kind == "the prompt with another subject hidden":
        return corrupt(clip, subject="red")[0]
    if kind == "other noise":
        return corrupt(clip, seed=1)[0]
    if kind == "a little more noise":
        return corrupt(clip, noise=3.1)[0]
    if kind == "longer":
        return stock.ConditioningConcat().concat(hidden, clean)[0]
    if kind == "one of two":
        return [[torch.cat([hidden[0][0], conditioning(clip, OTHER)[0][0]]), {}]]
    if kind == "averaged":
        return stock.ConditioningAverage().addWeighted(hidden, clean, 0.9)[0]
    return stock.ConditioningZeroOut().zero_out(hidden)[0]


@pytest.mark.newest
@pytest.mark.parametrize(
    "kind",
    [
        "the clean one",
        "another prompt",
        "the prompt with another subject hidden",
        "other noise",
        "a little more noise",
        "longer",
        "averaged",
        "one of two",
        "zeroed",
    ],
)
def test_another_positive_is_refused_before_the_first_step(
    shapes, corrupt, prompts, restore_unet, schedule, kind, monkeypatch
):
    positive = changed_positive(kind, shapes[1], corrupt, prompts)
    model = restore_unet(shapes[0], prompts[2], SITE)
    monkeypatch.setattr(shapes[0].model, "apply_model", lambda *args, **kwargs: pytest.fail("painted"))
    with pytest.raises(RuntimeError, match=r"None of the sampler's positive conditionings .* Corrupt Prompt"):
        paint(GUIDERS["CFGGuider"](model, positive, prompts[3], prompts[4]), schedule)


def test_a_guider_without_a_positive_conditioning_is_refused(shapes, prompts, restore_unet, schedule):
    import comfy.samplers

    class Unguided(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 - ComfyUI's own form
            (out,) = comfy.samplers.calc_cond_batch(self.inner_model, [self.conds["text"]], x, timestep, model_options)
            return out

    guider = Unguided(restore_unet(shapes[0], prompts[2], SITE))
    guider.inner_set_conds({"text": prompts[0]})
    with pytest.raises(RuntimeError, match="Unguided has the conditionings text; expected one named positive"):
        paint(guider, schedule)


def test_what_another_node_runs_beside_the_guidance_is_left_alone(shapes, prompts, restore_unet, schedule):
    """PerpNeg's old node runs an empty conditioning of its own in the midst of the guidance."""
    hidden, _, corruption, negative, other = prompts

    def perpendicular(model):
        return first(nodes_perpneg.PerpNeg, model, other, 1.0)

    model = perpendicular(restore_unet(shapes[0], corruption, SITE, 1, 3))
    # Oracle: the guider that replaced it.
    guider = first(
        nodes_perpneg.PerpNegGuider, restore_unet(shapes[0], corruption, SITE, 1, 3), hidden, negative, other, CFG, 1.0
    )
    got = paint(GUIDERS["CFGGuider"](model, hidden, negative, other), schedule)
    torch.testing.assert_close(got, paint(guider, schedule), atol=2e-3, rtol=1e-3)


# --- steps -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steps_of(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.host.tracing.steps")


@given(
    gaps=st.lists(st.floats(0.05, 3), min_size=2, max_size=30),
    place=st.integers(0, 28),
    share=st.floats(0, 0.9),
    rising=st.booleans(),
)
def test_a_level_belongs_to_the_step_that_begins_at_it_or_before(steps_of, gaps, place, share, rising):
    levels = torch.tensor(gaps).cumsum(0)
    levels = levels if rising else levels.flip(0)
    step = place % (len(levels) - 1)
    for part in (0, share):
        assert steps_of.step_of(levels, levels[step] + part * (levels[step + 1] - levels[step])) == step


def part(model, positive, negative, start, end, latent=None):
    """What KSampler (Advanced) does from one step to another."""
    import nodes as stock

    latent = {"samples": torch.zeros(1, 16, 16, 16) if latent is None else latent}
    return stock.common_ksampler(
        model, 3, STEPS, CFG, "euler", "normal", positive, negative, latent,
        disable_noise=start > 0, start_step=start, last_step=end, force_full_denoise=end >= STEPS,
    )[0]["samples"]  # fmt: skip


def test_steps_are_counted_in_the_whole_schedule(nodes, shapes, prompts, schedule):
    """Oracle: with all of the text restored, a restored step is one that is painted with the clean prompt."""
    hidden, clean, corruption, negative, _ = prompts
    node = nodes["DiffQuickFix_RestoreUNetState"]

    def restoring(start, end, *given):
        return node.execute(shapes[0], corruption, "*.cross_context", start, end, "cond", *given).args[0]

    half = part(shapes[0], hidden, negative, 0, 2)
    third = part(shapes[0], clean, negative, 2, 3, half)
    wanted = part(shapes[0], hidden, negative, 3, STEPS, third)
    got = part(restoring(2, 3, schedule), hidden, negative, 2, STEPS, half)
    torch.testing.assert_close(got, wanted, atol=2e-3, rtol=1e-3)
    idle = part(restoring(0, 2, schedule), hidden, negative, 2, STEPS, half)
    torch.testing.assert_close(idle, part(shapes[0], hidden, negative, 2, STEPS, half), atol=2e-3, rtol=1e-3)
    assert not torch.allclose(got, idle, atol=1e-2)
    with pytest.raises(RuntimeError, match="does not say at which step"):
        part(restoring(2, 3), hidden, negative, 2, STEPS, half)
    with pytest.raises(RuntimeError, match="no part of the schedule"):
        part(restoring(2, 3, schedule * 0.9), hidden, negative, 2, STEPS, half)
    # All steps are all steps, wherever the sampler begins; and a part that begins where the schedule does is known.
    whole = part(restoring(0, 10000), hidden, negative, 2, STEPS, half)
    torch.testing.assert_close(whole, part(shapes[0], clean, negative, 2, STEPS, half), atol=2e-3, rtol=1e-3)
    begun = part(restoring(0, 1), hidden, negative, 0, 2)
    wanted = part(shapes[0], hidden, negative, 1, 2, part(shapes[0], clean, negative, 0, 1))
    torch.testing.assert_close(begun, wanted, atol=2e-3, rtol=1e-3)


def test_steps_of_rising_sigmas_are_counted_from_their_own_first(shapes, prompts, restore_unet, schedule):
    """Unsampling: noise is added step by step. Oracle: its parts, painted one after another."""
    hidden, clean, corruption, _, _ = prompts
    rising = first(custom.FlipSigmas, schedule)
    start = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(1))

    def run(model, positive, sigmas, latent):
        return paint(first(custom.BasicGuider, model, positive), sigmas, noise=False, latent=latent)

    one = run(shapes[0], hidden, rising[:2], start)
    two = run(shapes[0], clean, rising[1:3], one)
    wanted = run(shapes[0], hidden, rising[2:], two)
    got = run(restore_unet(shapes[0], corruption, "*.cross_context", 1, 2), hidden, rising, start)
    torch.testing.assert_close(got, wanted, atol=5e-3, rtol=5e-3)
    assert not torch.allclose(wanted, run(shapes[0], hidden, rising, start), atol=2e-2)
    with pytest.raises(RuntimeError, match="does not say at which step"):
        run(restore_unet(shapes[0], corruption, "*.cross_context", 1, 2), hidden, rising[1:], one)


def test_every_stock_schedule_is_known_as_whole_and_its_later_part_is_not(shapes, steps_of):
    import comfy.samplers

    model = shapes[0]
    sampling = model.get_model_object("model_sampling")
    for scheduler in comfy.samplers.KSampler.SCHEDULERS:
        for sampler in ("euler", "dpm_2", "uni_pc"):
            for steps in (4, 7, 20, 30):
                ks = comfy.samplers.KSampler(model, steps, "cpu", sampler, scheduler, 1.0)
                steps_of.require_known_steps(range(1, 2), ks.sigmas, None, sampling)
                with pytest.raises(RuntimeError, match="does not say at which step"):
                    steps_of.require_known_steps(range(1, 2), ks.sigmas[1:], None, sampling)


def test_samplers_that_do_not_treat_rows_alike_are_refused(shapes, prompts, restore_unet, schedule):
    import comfy.samplers

    hidden, _, corruption, negative, other = prompts
    guider = GUIDERS["CFGGuider"](restore_unet(shapes[0], corruption, SITE), hidden, negative, other)
    for sampler, why in (
        (comfy.samplers.ksampler("euler", {"s_churn": 2.0}), "draws new noise"),
        (comfy.samplers.ksampler("dpm_adaptive", {"eta": 1.0}), "draws new noise"),
        (comfy.samplers.ksampler("dpm_adaptive"), "chooses its steps by all pictures"),
    ):
        with pytest.raises(RuntimeError, match=why):
            first(
                custom.SamplerCustomAdvanced,
                first(custom.RandomNoise, 5),
                guider,
                sampler,
                schedule,
                {"samples": torch.zeros(1, 16, 16, 16)},
            )
    assert sample(shapes[0], hidden, negative, sampler="dpm_adaptive").isfinite().all()
    assert encode(shapes[1], PROMPT).isfinite().all()
