"""The tracing nodes on ComfyUI's own CLIP and MODEL objects."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from conditioning import encode
from diff_quickfix.demo_model.pipeline import load_pipeline
from diff_quickfix.tracing.examples import examples_of
from diff_quickfix.tracing.result import CausalTrace
from diff_quickfix.tracing.sites import unet_sites
from PIL import Image
from random_models import cached, sd15

pytestmark = pytest.mark.usefixtures("inference")

PROMPT = "a red circle on grass, in the style of van gogh"
STEPS = 4


@pytest.fixture
def corrupt(nodes):
    def run(clip, prompt=PROMPT, subject="van gogh", noise=3.0, seed=0, replaced_by=""):
        return nodes["DiffQuickFix_CorruptPrompt"].execute(clip, prompt, subject, noise, seed, replaced_by).args

    return run


@pytest.fixture
def restore_text(nodes):
    return lambda *args: nodes["DiffQuickFix_RestoreTextState"].execute(*args).args[0]


@pytest.fixture
def restore_unet(nodes):
    def run(model, corruption, sites, start=0, end=10000, branch="cond"):
        return nodes["DiffQuickFix_RestoreUNetState"].execute(model, corruption, sites, start, end, branch).args[0]

    return run


def sample(model, positive, negative, *, batch=1, cfg=4.0, seed=3, sampler="euler", size=16):
    """What the stock KSampler does."""
    import nodes as stock

    latent = {"samples": torch.zeros(batch, 4, size, size)}
    return stock.common_ksampler(model, seed, STEPS, cfg, sampler, "normal", positive, negative, latent)[0]["samples"]


def conditioning(clip, text):
    return [[encode(clip, text), {}]]


def hooks_of(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


# --- text encoder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt",
    [
        PROMPT,
        "a red circle on grass, in the style of (van gogh:1.4)",
        "(a red circle:0.5) on grass, Van Gogh!",
        "red circle, " * 40 + "in the style of van gogh",
        "van gogh, " + "red circle, " * 40,
    ],
)
def test_clean_is_what_the_stock_node_encodes_and_only_the_subject_and_later_change(shapes, corrupt, prompt):
    _, clip, _ = shapes
    corrupted, clean, corruption = corrupt(clip, prompt)
    stock = encode(clip, prompt)
    torch.testing.assert_close(clean[0][0], stock, atol=2e-5, rtol=1e-4)
    changed = (corrupted[0][0] - clean[0][0]).abs().amax(-1)[0]
    first = corruption.case.chunk * 77 + corruption.case.corruption.positions[0]
    assert (changed[:first] < 1e-5).all()
    assert (changed[first : first + 2] > 1e-2).all()
    assert hooks_of(clip.cond_stage_model) == 0


def test_restoring_the_last_hidden_state_everywhere_is_the_clean_run(shapes, corrupt, restore_text):
    _, clip, _ = shapes
    corrupted, clean, corruption = corrupt(clip)
    restored = restore_text(corruption, 5, "hidden", "all")
    torch.testing.assert_close(restored[0][0], clean[0][0], atol=1e-5, rtol=0)
    part = restore_text(corruption, 5, "hidden", "last subject token")[0][0]
    where = corruption.subject[-1]
    torch.testing.assert_close(part[0, where], clean[0][0][0, where], atol=1e-5, rtol=0)
    torch.testing.assert_close(part[0, where + 1 :], corrupted[0][0][0, where + 1 :], atol=1e-5, rtol=0)


def test_clip_skip_is_respected(shapes, corrupt):
    _, clip, _ = shapes
    skipping = clip.clone()
    skipping.clip_layer(-2)
    torch.testing.assert_close(corrupt(skipping)[1][0][0], encode(skipping, PROMPT), atol=2e-5, rtol=1e-4)


def test_other_words_in_the_subjects_place(shapes, corrupt):
    _, clip, _ = shapes
    corrupted, _, _ = corrupt(clip, replaced_by="bridget riley")
    swapped = encode(clip, PROMPT.replace("van gogh", "bridget riley"))
    torch.testing.assert_close(corrupted[0][0], swapped, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject": "monet"}, "not among the words"),
        ({"subject": ""}, "empty"),
        ({"subject": "go"}, "not among the words"),
        ({"prompt": "van gogh, " + "red circle, " * 40 + "van gogh"}, "parts of 77"),
        ({"replaced_by": "the president of the united states"}, "at most"),
    ],
)
def test_bad_subjects_are_refused(shapes, corrupt, changes, message):
    with pytest.raises(ValueError, match=message):
        corrupt(shapes[1], **changes)


# --- UNet ------------------------------------------------------------------------------------------------------------


def test_the_restored_run_equals_a_loop_written_by_hand(shapes, corrupt, restore_unet):
    """Oracle: diffusers' UNet, an Euler loop and one hook, against the stock sampler on the restoring MODEL."""
    model, clip, _ = shapes
    corrupted, clean, corruption = corrupt(clip)
    negative = conditioning(clip, "")
    painted = sample(restore_unet(model, corruption, "unet.input.4.1.self_attn", 1, 3), corrupted, negative)

    import comfy.sample
    import comfy.samplers

    unet = load_pipeline().unet
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", STEPS)
    noise = comfy.sample.prepare_noise(torch.zeros(1, 16, 16, 16), 3)
    # ComfyUI starts from this scale when the first sigma is the largest one that the model knows.
    x = noise.repeat(2, 1, 1, 1) * (1 + sigmas[0] ** 2) ** 0.5
    text = torch.cat([clean[0][0], corrupted[0][0], negative[0][0], negative[0][0]])
    restored = unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1
    for step in range(STEPS):
        now = sigmas[step]

        def put_back(module, args, output, step=step):
            if 1 <= step < 3:
                output = output.clone()
                output[1] = output[0]
            return output

        handle = restored.register_forward_hook(put_back)
        scaled = (x / (1 + now**2) ** 0.5).repeat(2, 1, 1, 1)
        guided, plain = unet(scaled, sampling.timestep(now), text).sample.chunk(2)
        handle.remove()
        x = x + (plain + 4.0 * (guided - plain)) * (sigmas[step + 1] - now)
    torch.testing.assert_close(painted, x[1:], atol=2e-3, rtol=1e-3)
    assert not torch.allclose(painted, sample(model, corrupted, negative), atol=1e-2)


@pytest.mark.parametrize(("batch", "cfg"), [(1, 4.0), (2, 4.0), (3, 1.0)])
def test_every_cross_attention_given_the_clean_text_paints_the_clean_picture(
    shapes, corrupt, restore_unet, batch, cfg
):
    model, clip, _ = shapes
    corrupted, clean, corruption = corrupt(clip)
    # A negative prompt of two parts: ComfyUI repeats the shorter conditioning.
    negative = conditioning(clip, "blue square, " * 40)
    restored = sample(restore_unet(model, corruption, "*.cross_context"), corrupted, negative, batch=batch, cfg=cfg)
    wanted = sample(model, clean, negative, batch=batch, cfg=cfg)
    assert restored.shape == wanted.shape
    torch.testing.assert_close(restored, wanted, atol=2e-3, rtol=1e-3)
    assert not torch.allclose(wanted, sample(model, corrupted, negative, batch=batch, cfg=cfg), atol=1e-2)


def test_restoring_at_no_step_is_the_corrupted_run(shapes, corrupt, restore_unet):
    model, clip, _ = shapes
    corrupted, _, corruption = corrupt(clip)
    negative = conditioning(clip, "")
    idle = sample(restore_unet(model, corruption, "unet.*.resnet", 90, 99), corrupted, negative)
    torch.testing.assert_close(idle, sample(model, corrupted, negative), atol=2e-3, rtol=1e-3)


def test_restoring_works_on_top_of_a_patched_model(shapes, corrupt, restore_unet):
    """A weight patch, as a LoRA node makes it, is in the clean and in the restored run."""
    model, clip, _ = shapes
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_out.0.weight"
    patched = model.clone()
    assert patched.add_patches({key: ("diff", (torch.full((64, 64), 0.02),))}, 1.0) == [key]
    corrupted, clean, corruption = corrupt(clip)
    negative = conditioning(clip, "")
    restored = sample(restore_unet(patched, corruption, "*.cross_context"), corrupted, negative)
    torch.testing.assert_close(restored, sample(patched, clean, negative), atol=2e-3, rtol=1e-3)


def test_nothing_is_left_behind(shapes, corrupt, restore_unet, monkeypatch):
    model, clip, _ = shapes
    corrupted, clean, corruption = corrupt(clip)
    negative = conditioning(clip, "")
    before = sample(model, clean, negative)
    restoring = restore_unet(model, corruption, "*")
    sample(restoring, corrupted, negative)
    assert torch.equal(sample(model, clean, negative), before)
    assert hooks_of(model.model) == 0
    # An error in mid-run: the positive conditioning is not the corrupted one.
    with pytest.raises(RuntimeError, match="Corrupt Prompt"):
        sample(restoring, conditioning(clip, "red circle, " * 40), negative)
    assert hooks_of(model.model) == 0
    assert torch.equal(sample(model, clean, negative), before)
    assert not model.wrappers or not any("DiffQuickFix" in str(kind) for kind in model.wrappers.values())


def test_an_unknown_site_is_refused(shapes, corrupt, restore_unet):
    model, clip, _ = shapes
    with pytest.raises(ValueError, match=r"this model has unet\.input"):
        restore_unet(model, corrupt(clip)[2], "unet.input.99.*")


def test_sites_have_sd15s_sixteen_cross_attentions_and_run_in_order(shapes):
    model, _, _ = shapes
    sites = unet_sites(model.model.diffusion_model)
    cross = [site.name for site in sites if site.kind == "cross_attn"]
    assert len(cross) == 16
    assert cross[0] == "unet.input.1.1.cross_attn" and cross[6] == "unet.middle.1.cross_attn"
    assert sum(site.kind == "block" for site in sites) == 12 + 1 + 12


# --- sweeps ----------------------------------------------------------------------------------------------------------


def sweep_inputs(shapes, **changes):
    model, clip, vae = shapes
    return {
        "model": model, "clip": clip, "vae": vae, "negative": conditioning(clip, ""),
        "latent": {"samples": torch.zeros(1, 4, 16, 16)}, "prompts": PROMPT.replace("van gogh", "[van gogh]"),
        "kind": "self_attn", "sites": "*", "window": 1, "noise": 3.0, "draws": 1, "seed": 0, "seeds": 1, "controls": 2,
        "steps": 2, "cfg": 3.0, "sampler_name": "ddim", "scheduler": "normal", "sever": "nothing", "batch_size": 8,
        "checkpoint": "", **changes,
    }  # fmt: skip


def test_a_text_trace_has_a_row_for_each_layer_and_a_column_for_each_token(nodes, shapes):
    node = nodes["DiffQuickFix_CausalTraceText"]
    trace, pictures = node.execute(**sweep_inputs(shapes), columns="tokens").args
    assert trace.sites == tuple(f"text.{i}.self_attn" for i in range(6))
    assert trace.columns == ("van", "gogh", "<end>", "<padding>")
    assert pictures.shape == (3, 128, 128, 3)
    assert trace.restored.isfinite().all() and float(trace.total_effects().amin()) > 0
    again, _ = node.execute(**sweep_inputs(shapes), columns="tokens").args
    torch.testing.assert_close(again.restored, trace.restored, atol=0, rtol=0)
    (drawing,) = nodes["DiffQuickFix_CausalHeatmap"].execute(trace, "indirect effect", 800).args
    assert drawing.shape[0] == 1 and drawing.shape[2:] == (800, 3) and 0 <= drawing.min() <= drawing.max() <= 1


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
    assert trace.sites == ("unet.input.1.1.self_attn", "unet.input.2.1.self_attn")
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


def test_traces_are_saved_loaded_compared_and_located(nodes, shapes, monkeypatch, tmp_path):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    node = nodes["DiffQuickFix_CausalTraceText"]
    trace, _ = node.execute(**sweep_inputs(shapes, draws=2), columns="tokens").args
    first, second = (nodes["DiffQuickFix_SaveTrace"].execute(trace, "run", True).args[0] for _ in range(2))
    assert first != second
    assert len(list(tmp_path.rglob("*.csv"))) == 2
    loaded = nodes["DiffQuickFix_LoadTrace"].execute(first).args[0]
    assert torch.equal(loaded.restored, trace.restored) and loaded.settings == trace.settings
    table = nodes["DiffQuickFix_CompareTraces"].execute(trace, loaded).args[0]
    assert "text.0.self_attn, van, +0.0000" in table
    layer, kind, site, confidence, report = nodes["DiffQuickFix_LocateCausalState"].execute(trace, "any").args
    assert (kind, site) == ("self_attn", f"text.{layer}.self_attn") and 0 <= confidence <= 1 and site in report
    for bad in ("", "../x", "a/../../x"):
        with pytest.raises(ValueError, match="plain file name"):
            nodes["DiffQuickFix_SaveTrace"].execute(trace, bad, False)


def test_a_real_size_stable_diffusion_is_traced(nodes):
    """Random weights: the point is that shapes, names, half precision and memory are right."""
    import comfy.sd

    model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(str(cached("sd15", sd15)), output_vae=True)
    inputs = sweep_inputs((model, clip, vae), sites="unet.middle.*", kind="all", steps=1, controls=0, batch_size=4,
                          latent={"samples": torch.zeros(1, 4, 8, 8)})
    trace, pictures = nodes["DiffQuickFix_CausalTraceUNet"].execute(**inputs, step_windows=1, branch="both").args
    assert len(trace.sites) == 7
    assert trace.restored.isfinite().all() and pictures.shape == (3, 64, 64, 3)


@pytest.fixture
def heatmap(nodes, tmp_path, monkeypatch):
    """The page's payload of a trace; temporary files lie in the test's folder."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))

    def payload(trace, *pictures):
        node = nodes["DiffQuickFix_CausalHeatmap"].execute(trace, "recovery", 800, *pictures)
        (found,) = node.ui["diff_quickfix_heatmap"]
        assert found == json.loads(json.dumps(found, allow_nan=False))
        return found

    return payload


def assert_shows(file, picture, folder):
    assert file["type"] == "temp" and file["subfolder"] == ""
    kept = np.asarray(Image.open(folder / file["filename"]).convert("RGB"))
    assert np.abs(kept / 255 - picture.numpy()).max() < 0.01


def test_each_restored_picture_goes_to_the_page_with_its_cell(nodes, shapes, corrupt, restore_text, heatmap, tmp_path):
    """Oracle: "Restore Layer State" and the stock sampler paint the same picture of a cell."""
    model, clip, vae = shapes
    inputs = sweep_inputs(shapes, sampler_name="euler", steps=STEPS, seed=3, cfg=4.0, sites="text.[02].*")
    trace, pictures = nodes["DiffQuickFix_CausalTraceText"].execute(**inputs, columns="places", pictures=512).args
    cells = len(trace.sites) * len(trace.columns)
    assert pictures.shape[0] == 2 + cells
    payload = heatmap(trace, pictures)
    assert payload["sites"] == list(trace.sites) and payload["layers"] == [0, 2]
    assert_shows(payload["pictures"]["clean"], pictures[0], tmp_path)
    assert_shows(payload["pictures"]["corrupted"], pictures[1], tmp_path)
    assert len(payload["pictures"]["restored"]) == cells
    _, _, corruption = corrupt(clip, seed=3)
    negative = conditioning(clip, "")
    for row, column, file in payload["pictures"]["restored"][:: cells // 4]:
        conditioned = restore_text(corruption, payload["layers"][row], "self_attn", trace.columns[column])
        alone = vae.decode(sample(model, conditioned, negative))[0]
        kept = np.asarray(Image.open(tmp_path / file["filename"]).convert("RGB")) / 255
        assert np.abs(kept - alone.numpy()).max() < 0.03


def test_pictures_of_another_trace_are_not_shown(nodes, shapes, heatmap, tmp_path):
    trace, pictures = nodes["DiffQuickFix_CausalTraceText"].execute(**sweep_inputs(shapes), columns="tokens").args
    (row, column, file), = heatmap(trace, pictures)["pictures"]["restored"]
    assert (trace.sites[row], trace.columns[column]) == (trace.best().site, trace.best().column)
    assert_shows(file, pictures[2], tmp_path)
    part = heatmap(trace, pictures[[2, 0]])["pictures"]
    assert part["corrupted"] is None and len(part["restored"]) == 1
    assert_shows(part["clean"], pictures[0], tmp_path)
    none = {"clean": None, "corrupted": None, "restored": []}
    assert heatmap(trace, 1 - pictures)["pictures"] == none
    assert heatmap(dataclasses.replace(trace, examples=None), pictures)["pictures"] == none
    assert "pictures" not in heatmap(trace)


def test_two_hundred_large_pictures_are_small_for_the_page(heatmap, tmp_path):
    sites = tuple(f"text.{layer}.mlp" for layer in range(20))
    zeros = torch.zeros(1, 1, 1)
    trace = CausalTrace(
        component="text", column_axis="token", sites=sites, columns=tuple("abcdefghij"), prompts=("a",),
        subjects=("a",), seeds=(0,), draws=1, clean=zeros[0], corrupted=zeros, restored=torch.zeros(1, 1, 1, 20, 10),
        score="cosine", control=torch.zeros(1, 1, 1, 0),
    )  # fmt: skip
    pictures = torch.rand(202, 1, 1, 3).expand(-1, 320, 512, -1)
    cells = [divmod(place, 10) for place in range(200)]
    payload = heatmap(dataclasses.replace(trace, examples=examples_of(cells, pictures)), pictures)
    assert [tuple(entry[:2]) for entry in payload["pictures"]["restored"]] == cells
    assert len(json.dumps(payload["pictures"])) < 30_000
    assert len(json.dumps(payload)) < 150_000, "what the page keeps with the workflow"
    assert Image.open(tmp_path / payload["pictures"]["clean"]["filename"]).size == (256, 160)
