"""The tracing nodes: sweeps, cancelled and refused ones, traces as files."""

from types import SimpleNamespace

import pytest
import torch
from random_models import cached, sd15
from runs import STEPS, conditioning, hooks_of, sample, sweep_inputs

pytestmark = pytest.mark.usefixtures("inference")


def test_a_text_trace_has_a_row_for_each_layer_and_a_column_for_each_token(nodes, text_trace):
    trace, pictures = text_trace
    assert trace.sites == tuple(f"text.{i}.self_attn" for i in range(6))
    assert trace.columns == ("van", "gogh", "<end>", "<padding>")
    assert pictures.shape == (3, 128, 128, 3)
    assert trace.restored.isfinite().all() and float(trace.total_effects().amin()) > 0
    (drawing,) = nodes["DiffQuickFix_CausalHeatmap"].execute(trace, "indirect effect", 800).args
    assert drawing.shape[0] == 1 and drawing.shape[2:] == (800, 3) and 0 <= drawing.min() <= drawing.max() <= 1


def test_the_same_trace_twice_is_the_same(nodes, shapes):
    inputs = sweep_inputs(shapes, sites="text.[05].*", seed=2)
    node = nodes["DiffQuickFix_CausalTraceText"]
    first, again = (node.execute(**inputs, columns="tokens").args[0] for _ in range(2))
    torch.testing.assert_close(again.restored, first.restored, atol=0, rtol=0)


def test_several_prompts_share_places(nodes, shapes):
    prompts = "a [blue] star on sand\nin the style of [bridget riley], two red hearts"
    node = nodes["DiffQuickFix_CausalTraceText"]
    trace, _ = node.execute(**sweep_inputs(shapes, prompts=prompts, sites="text.0.*"), columns="places").args
    assert trace.prompts == ("a blue star on sand", "in the style of bridget riley, two red hearts")
    assert trace.subjects == ("blue", "bridget riley")
    assert "last subject token" in trace.columns and "all" in trace.columns
    with pytest.raises(ValueError, match="columns: places"):
        node.execute(**sweep_inputs(shapes, prompts=prompts), columns="tokens")


def test_a_unet_trace_equals_the_restoring_node(nodes, shapes, corrupt, restore_unet):
    """The sweep and the one-site node are two ways to the same picture."""
    model, clip, _ = shapes
    node = nodes["DiffQuickFix_CausalTraceUNet"]
    inputs = sweep_inputs(shapes, sites="unet.input.[12].*", sampler_name="euler", steps=STEPS, seed=3, cfg=4.0)
    trace, _ = node.execute(**inputs, step_windows=1, branch="cond").args
    assert trace.sites == ("unet.down.0.a0.self_attn", "unet.down.0.a1.self_attn")
    corrupted, clean, corruption = corrupt(clip, seed=3)
    negative = conditioning(clip, "")
    reference = sample(model, clean, negative)
    for row, site in enumerate(trace.sites):
        restored = sample(restore_unet(model, corruption, site), corrupted, negative)
        distance = -float((restored - reference).square().mean().sqrt())
        assert float(trace.restored[0, 0, 0, row, 0]) == pytest.approx(distance, rel=2e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ""}, "No prompt"),
        ({"prompts": "a house by van gogh"}, "0 subjects"),
        ({"prompts": "[a] house by [van gogh]"}, "2 subjects"),
        ({"sampler_name": "euler_ancestral"}, "new noise at every step"),
        ({"latent": {"samples": torch.zeros(2, 4, 16, 16)}}, "batch of 2"),
        ({"sites": "text.40.*"}, "No site fits"),
        ({"checkpoint": "../../evil"}, "plain file name"),
    ],
)
def test_bad_sweeps_are_refused_before_anything_is_painted(nodes, shapes, monkeypatch, changes, message):
    import comfy.sample

    monkeypatch.setattr(comfy.sample, "sample", lambda *args, **kwargs: pytest.fail("painted"))
    with pytest.raises(ValueError, match=message):
        nodes["DiffQuickFix_CausalTraceText"].execute(**sweep_inputs(shapes, **changes), columns="tokens")


def test_a_cancelled_trace_keeps_what_was_finished(nodes, shapes, monkeypatch, tmp_path):
    import comfy.model_management
    import comfy.utils
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    batches = []

    def cancel():
        if len(batches) == 2:
            raise comfy.model_management.InterruptProcessingException

    node = nodes["DiffQuickFix_CausalTraceText"]
    inputs = sweep_inputs(shapes, checkpoint="half", steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", cancel)
        patch.setattr(comfy.utils.ProgressBar, "update_absolute", lambda *args: batches.append(args))
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            node.execute(**inputs, columns="tokens")
    assert hooks_of(shapes[1].cond_stage_model) == 0 == hooks_of(shapes[0].model)
    half = nodes["DiffQuickFix_LoadTrace"].execute("half").args[0]
    assert half.restored.isfinite().any() and not half.restored.isfinite().all()
    resumed, _ = node.execute(**inputs, columns="tokens").args
    whole, _ = node.execute(**{**inputs, "checkpoint": ""}, columns="tokens").args
    torch.testing.assert_close(resumed.restored, whole.restored, atol=1e-4, rtol=1e-3)


def test_traces_are_saved_loaded_compared_and_located(nodes, text_trace, monkeypatch, tmp_path):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    trace, _ = text_trace
    first, second = (nodes["DiffQuickFix_SaveTrace"].execute(trace, "run", True).args[0] for _ in range(2))
    assert first != second
    assert len(list(tmp_path.rglob("*.csv"))) == 4
    loaded = nodes["DiffQuickFix_LoadTrace"].execute(first).args[0]
    assert torch.equal(loaded.restored, trace.restored) and loaded.settings == trace.settings
    compared = nodes["DiffQuickFix_CompareTraces"].execute(trace, loaded)
    table, drawn, alike = compared.args
    assert drawn.shape[0] == 1 and drawn.shape[2:] == (1200, 3) and len(compared.ui["images"]) == 1
    assert alike == pytest.approx(1)
    assert "text.0.self_attn, van, +0.0000" in table
    layer, kind, site, confidence, report, *_ = nodes["DiffQuickFix_LocateCausalState"].execute(trace, "any").args
    assert (kind, site) == ("self_attn", f"text.{layer}.self_attn") and site in report
    # One prompt is one witness.
    assert confidence != confidence and "One prompt" in report
    for bad in ("", "../x", "a/../../x"):
        with pytest.raises(ValueError, match="plain file name"):
            nodes["DiffQuickFix_SaveTrace"].execute(trace, bad, False)


def test_a_real_size_stable_diffusion_is_traced(nodes):
    """Random weights: the point is that shapes, names, half precision and memory are right."""
    import comfy.sd

    model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(str(cached("sd15", sd15)), output_vae=True)
    inputs = sweep_inputs(
        (model, clip, vae),
        sites="unet.middle.*",
        kind="all",
        steps=1,
        controls=0,
        batch_size=16,
        latent={"samples": torch.zeros(1, 4, 8, 8)},
    )
    trace, pictures = nodes["DiffQuickFix_CausalTraceUNet"].execute(**inputs, step_windows=1, branch="both").args
    assert len(trace.sites) == 7
    assert trace.restored.isfinite().all() and pictures.shape == (3, 64, 64, 3)


def test_an_adapter_that_reads_one_prompt_takes_the_rows_of_a_batch(nodes):
    """Anima makes its text states of two encoders' tokens, one prompt at a time. Put back in all cross-attentions they
    are the clean run's, in a sweep and with the MODEL that restores; the model is left as it was."""
    from small_encoders import objects

    import nodes as stock

    model, clip = objects("anima")
    adapter = model.model.diffusion_model.preprocess_text_embeds
    latent = {"samples": torch.zeros(1, 4, 1, 8, 8)}
    (negative,) = stock.CLIPTextEncode().encode(clip, "")
    vae = SimpleNamespace(decode=lambda latents: torch.zeros(len(latents), 8, 8, 3))
    inputs = sweep_inputs(
        (model, clip, vae), prompts="a red [boat] on sand", kind="cross_context", window=2, controls=0
    )
    inputs |= {"latent": latent, "negative": negative, "sampler_name": "euler", "seed": 5}
    trace = nodes["DiffQuickFix_CausalTraceUNet"].execute(**inputs, step_windows=1, branch="cond").args[0]
    away, left = float(-trace.corrupted), float(-trace.restored)
    assert trace.sites == ("dit.cross.0..cross.1.cross_context",) and away > 1e-4 and left < 1e-3 * away
    given = nodes["DiffQuickFix_CorruptPrompt"].execute(clip, "a red boat on sand", "boat", 3.0, 5).args
    restoring = (
        nodes["DiffQuickFix_RestoreUNetState"]
        .execute(model, given[2], "dit.cross.*.cross_context", 0, 1000, "cond")
        .args[0]
    )

    def painted(model, positive):
        made = stock.common_ksampler(model, 5, 2, 3.0, "euler", "normal", positive, negative, latent)
        return made[0]["samples"]

    hidden, clean, back = painted(model, given[0]), painted(model, given[1]), painted(restoring, given[0])
    moved = float((hidden - clean).norm())
    assert moved > 0 and float((back - clean).norm()) < 1e-3 * moved
    # ComfyUI takes patches off with the next load.
    assert torch.equal(painted(model, given[0]), hidden)
    assert model.model.diffusion_model.preprocess_text_embeds == adapter


def test_other_text_in_all_cross_attentions_is_the_other_prompt(nodes, shapes):
    """LocoGen's probe through ComfyUI's sampler: a window of all layers takes away what the other words do."""
    node = nodes["DiffQuickFix_CausalTraceUNet"]
    inputs = sweep_inputs(shapes, kind="cross_context", window=64, replaced_by="bridget riley", controls=8)
    trace, pictures = node.execute(**inputs, step_windows=1, branch="cond", probe="other text").args
    total = float(trace.total_effects())
    assert total > 0.01 and float(trace.average_indirect_effect()) == pytest.approx(total, rel=1e-3)
    assert trace.control.shape[-1] == 0 and trace.probe == trace.settings["probe"] == "other text"
    torch.testing.assert_close(pictures[2], pictures[1], atol=1e-3, rtol=0)
    for changes, message in (
        ({"kind": "cross_attn"}, "choose the kind cross_context"),
        ({"replaced_by": " "}, "needs replaced_by"),
        ({"sever": "resnet"}, "set sever to nothing"),
    ):
        with pytest.raises(ValueError, match=message):
            node.execute(**{**inputs, **changes}, step_windows=1, branch="cond", probe="other text")


def test_heads_are_traced_where_they_are_asked_for(nodes, shapes, corrupt, restore_unet):
    """The sweep and the one-site node are two ways to the same picture; in the text encoder all heads are traced."""
    model, clip, _ = shapes
    attention = "unet.down.0.a0.cross_attn"
    settings = {"kind": "all", "sites": f"{attention}, {attention}.h*", "sampler_name": "euler", "steps": STEPS}
    inputs = sweep_inputs(shapes, **settings, seed=3, cfg=4.0, controls=0)
    trace, _ = nodes["DiffQuickFix_CausalTraceUNet"].execute(**inputs, step_windows=1, branch="cond").args
    assert trace.sites[0].startswith(attention) and len(trace.sites) > 2
    corrupted, clean, corruption = corrupt(clip, seed=3)
    negative = conditioning(clip, "")
    reference = sample(model, clean, negative)
    head = trace.sites.index(f"{attention}.h1")
    restored = sample(restore_unet(model, corruption, f"{attention}.h1"), corrupted, negative)
    distance = -float((restored - reference).square().mean().sqrt())
    assert float(trace.restored[0, 0, 0, head, 0]) == pytest.approx(distance, rel=2e-2)
    text = sweep_inputs(shapes, kind="all", sites="text.0.self_attn.h*", steps=1, controls=0)
    found, _ = nodes["DiffQuickFix_CausalTraceText"].execute(**text, columns="tokens").args
    heads = shapes[1].cond_stage_model.clip_l.transformer.text_model.encoder.layers[0].self_attn.heads
    assert found.sites == tuple(f"text.0.self_attn.h{number}" for number in range(heads))
