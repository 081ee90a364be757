"""Traces of diffusers pipelines: what they leave behind, refuse, and say of themselves."""

import copy
import dataclasses
import json
import re
from pathlib import Path

import diffusers
import pytest
import torch
from diff_quickfix.demo_model.diffusers_pipelines import shapes_pipeline
from diff_quickfix.families.sites import SiteError
from diff_quickfix.pipelines import PipelineError, TraceSettings, open_tracer, trace
from diff_quickfix.pipelines.tracing.checks import DETERMINISTIC
from diff_quickfix.pipelines.tracing.encoding import Encoding
from diff_quickfix.pipelines.tracing.kinds import kind_of
from diff_quickfix.text.subjects import SubjectError
from row_pipelines import pipeline
from small_pipelines import sd1, sdxl

PROMPT = "a house by the [dog], at night"
SMALL = {"height": 16, "width": 16, "steps": 2, "replaced_by": "cat", "controls": 0}
NAMES = ("sd1", "sdxl", "sd3", "flux")


@pytest.fixture(scope="module")
def pipes(comfyui):
    return {"sd1": sd1(), "sdxl": sdxl(), **{name: pipeline(name, comfyui) for name in ("sd3", "flux")}}


@pytest.fixture
def pipe(pipes):
    return copy.deepcopy(pipes["sd1"])


def hooks_of(pipe):
    modules = [one for one in pipe.components.values() if isinstance(one, torch.nn.Module)]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for one in modules for m in one.modules())


def painted(pipe):
    latents = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(1)).repeat(1, 1, 8, 8)
    return pipe("a house", num_inference_steps=2, height=128, width=128, latents=latents, output_type="latent").images


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_what_the_pipeline_itself_encodes_bit_by_bit(pipes, name, dtype):
    pipe = copy.deepcopy(pipes[name]).to(dtype)
    tracer = open_tracer(pipe, TraceSettings(**SMALL, max_sequence_length=20 if name in ("sd3", "flux") else None))
    text, _, readings = tracer._read(PROMPT)
    kind = kind_of(pipe)
    with torch.no_grad():
        encoding = Encoding.of(pipe, kind, tracer.settings, readings)
        found = encoding.given(encoding.rows(3))
        more = {"max_sequence_length": 20} if name in ("sd3", "flux") else {}
        more |= {} if name == "flux" else {"do_classifier_free_guidance": False}
        more |= {"prompt_2": None, "prompt_3": None} if name == "sd3" else {"prompt_2": None} if name == "flux" else {}
        wanted = pipe.encode_prompt(prompt=[text] * 3, device="cpu", num_images_per_prompt=1, **more)
    wanted = [one for one in wanted if one is not None and one.ndim > 1 and len(one) == 3][: len(found)]
    assert [*found] == ["prompt_embeds", "pooled_prompt_embeds"][: len(wanted)] and len(wanted) == len(kind.given)
    for one, other in zip(found.values(), wanted, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


def test_a_clip_skip_is_the_pipelines_own(pipes):
    """A layer that is skipped changes nothing; the one before it, restored everywhere, brings all back."""
    settings = {**SMALL, "clip_skip": 1}
    found = trace(pipes["sdxl"], PROMPT, sites="text.l.1.hidden, text.l.0.hidden", encoder="l", **settings)
    place = found.columns.index("all")
    before, behind = (found.recovery(1e-6)[found.sites.index(site), place] for site in found.sites[:2])
    assert found.sites[0].endswith("0.hidden") and float(before) == pytest.approx(1, abs=1e-3)
    assert float(behind) == pytest.approx(0, abs=1e-3)


def test_a_clip_skip_at_which_the_pipeline_itself_fails_is_refused(pipe):
    """diffusers asks for a level of modules that transformers 5 has taken away."""
    with pytest.raises(AttributeError, match="text_model"):
        pipe("a house", num_inference_steps=1, height=16, width=16, clip_skip=1)
    with pytest.raises(PipelineError, match=r"clip_skip is 1.*transformers 4"):
        open_tracer(pipe, TraceSettings(**SMALL, clip_skip=1))


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("component", ["text", "image"])
def test_nothing_is_left_on_the_pipeline(pipe, component, error):
    before_pictures, hooks = painted(pipe), hooks_of(pipe)
    state, scheduler = dict(vars(pipe)), copy.deepcopy(vars(pipe.scheduler))

    def progress(done, total, results):
        if error:
            assert hooks_of(pipe) == hooks
            raise error

    def failing(module, args, kwargs):
        raise error

    def attempt(**more):
        return trace(pipe, PROMPT, component, sites="*0.*", rows=4, **SMALL, **more)

    if error is None:
        attempt()
    else:
        with pytest.raises(error):
            attempt(progress=progress)
        # While hooks are in place.
        handle = pipe.unet.mid_block.register_forward_pre_hook(failing, with_kwargs=True)
        with pytest.raises(error):
            attempt()
        handle.remove()
    assert hooks_of(pipe) == hooks
    assert vars(pipe).keys() == state.keys() and all(vars(pipe)[key] is value for key, value in state.items())
    assert vars(pipe.scheduler).keys() == scheduler.keys() and pipe.scheduler.config == scheduler["_internal_dict"]
    assert torch.equal(painted(pipe), before_pictures)


def of_class(name, pipe):
    made = getattr(diffusers, name).from_config({"clip_sample": False, "skip_prk_steps": True})
    copied = copy.copy(pipe)
    copied.scheduler = made
    return copied


@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if "Flow" not in name])
def test_every_deterministic_scheduler_brings_the_clean_run_back(pipe, name):
    """Restored at the last block at every step, the run is the clean one; at all but the last step, it is not."""
    made = of_class(name, pipe)
    found = trace(made, PROMPT, "image", sites="unet.up.1.b1.block", **SMALL)
    away = float(-found.corrupted)
    assert away > 1e-4 and float(-found.restored) < 1e-3 * away
    halves = trace(made, PROMPT, "image", sites="unet.up.1.b1.block", step_windows=2, **SMALL)
    assert halves.restored.isfinite().all() and float(-halves.restored.amin()) > 1e-2 * away


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("EulerAncestralDiscreteScheduler", {}),
        ("DDPMScheduler", {}),
        ("LCMScheduler", {}),
        ("KDPM2AncestralDiscreteScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    ],
)
def test_schedulers_that_draw_noise_are_refused_by_name(pipe, name, config):
    pipe.scheduler = getattr(diffusers, name)(**config)
    with pytest.raises(PipelineError, match=rf"{name} .*noise at every step"):
        open_tracer(pipe, TraceSettings())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"component": "unet"}, "component is 'unet'"),
        ({"steps": 0}, "steps is 0"),
        ({"score": "beauty"}, "score is 'beauty'"),
        ({"true_guidance": 3.0}, "has no true_guidance"),
        ({"max_sequence_length": 9}, "has no max_sequence_length"),
        ({"height": 20}, "multiples of"),
        ({"encoder": "t5"}, "no text encoder 't5'"),
        ({"lora": 1}, "Unknown settings lora"),
        ({"sites": "text.40.*"}, "No site fits"),
    ],
)
def test_settings_that_do_not_fit_are_refused(pipe, changes, message):
    with pytest.raises((PipelineError, SiteError), match=message):
        trace(pipe, PROMPT, **{**SMALL, **changes})


def test_pipelines_that_cannot_be_traced_are_refused(pipe, comfyui):
    with pytest.raises(PipelineError, match="Found ZImagePipeline; expected one of StableDiffusionPipeline"):
        open_tracer(pipeline("z-image", comfyui), TraceSettings())
    with pytest.raises(PipelineError, match="its own device"):
        open_tracer(pipe, TraceSettings(), dtype=torch.float16)
    with pytest.raises(PipelineError, match="no diffusers pipeline"):
        open_tracer("/nowhere", TraceSettings())
    away = copy.deepcopy(pipe)
    away.enable_sequential_cpu_offload(device="cpu")
    with pytest.raises(PipelineError, match="is not in memory"):
        open_tracer(away, TraceSettings())
    pipe.unet.down_blocks[0].resnets[0].dropout.p = 0.5
    pipe.unet.train()
    with pytest.raises(PipelineError, match="training mode"):
        open_tracer(pipe, TraceSettings())
    pipe.unet.eval().compile()
    with pytest.raises(PipelineError, match="unet is compiled"):
        open_tracer(pipe, TraceSettings())


@pytest.mark.parametrize("prompt", ["a house", "[a] house by [dog]", "a [dog]\na [cat]", "a house [do]g"])
def test_a_prompt_has_one_subject(pipe, prompt):
    with pytest.raises(SubjectError):
        trace(pipe, prompt, **SMALL)


def test_settings_survive_json():
    settings = TraceSettings("image", sites="unet.mid.*", guidance=3.0, height=64, negative="")
    assert TraceSettings.of_dict(json.loads(json.dumps(settings.as_dict()))) == settings


def test_prompts_have_the_same_columns(pipe):
    first, other = (trace(pipe, text, sites="text.0.mlp", **SMALL) for text in (PROMPT, "by the [dog]"))
    assert first.columns == other.columns and "later tokens" in first.columns
    assert first.restored.isfinite().all()
    place = other.columns.index("later tokens")
    assert other.restored[..., place].isnan().all() and other.restored.isfinite().sum() == len(other.columns) - 1
    tokens = trace(pipe, PROMPT, sites="text.0.mlp", columns="tokens", **SMALL)
    assert tokens.columns == ("dog", ",", "at", "night", "<end>", "<padding>")


def test_a_folder_is_traced_like_the_pipeline_in_it(pipe, tmp_path):
    bare = type(pipe)(**{**pipe.components, "vae": None}, requires_safety_checker=False)
    bare.save_pretrained(tmp_path)
    settings = TraceSettings(**SMALL, sites="text.0.mlp")
    tracers = [open_tracer(bare, settings), open_tracer(tmp_path, settings, device="cpu")]
    first, other = (one.trace(PROMPT, [3, 4]) for one in tracers)
    assert torch.equal(first.restored.nan_to_num(), other.restored.nan_to_num()) and first.seeds == (3, 4)
    assert tracers[0].identity == tracers[1].identity == first.settings["made_with"]


def test_what_changes_a_score_changes_the_identity(pipe):
    tracer = open_tracer(pipe, TraceSettings(**SMALL, sites="text.0.mlp"))
    before, scores = dict(tracer.identity), tracer.trace(PROMPT, [0]).corrupted
    assert dict(tracer.identity) == before
    with torch.no_grad():
        next(pipe.text_encoder.parameters()).mul_(1.5)
    after = dict(tracer.identity)
    assert {key for key in after if after[key] != before[key]} == {"text_encoder weights"}
    assert not torch.equal(tracer.trace(PROMPT, [0]).corrupted, scores)
    pipe.scheduler = diffusers.EulerDiscreteScheduler()
    assert {key for key in after if tracer.identity[key] != after[key]} == {"scheduler"}


def test_loras_count_as_the_pipeline_has_them(pipe):
    name, (out, width) = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v", (32, 32)
    assert pipe.unet.get_submodule(name).weight.shape == (out, width)
    up, down = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in ((out, 2), (2, width)))
    lora = {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    plain = trace(pipe, PROMPT, sites="text.0.mlp", **SMALL)
    pipe.load_lora_weights(lora, adapter_name="edit")
    tracer = open_tracer(pipe, TraceSettings(**SMALL, sites="text.0.mlp"))
    active, told = tracer.trace(PROMPT, [0]), dict(tracer.identity)
    pipe.set_adapters("edit", 0.5)
    half = tracer.trace(PROMPT, [0])
    assert tracer.identity["unet adapters"] != told["unet adapters"]
    pipe.set_adapters("edit", 1.0)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    fused = trace(pipe, PROMPT, sites="text.0.mlp", **SMALL)
    torch.testing.assert_close(active.restored, fused.restored, atol=1e-4, rtol=1e-4, equal_nan=True)
    for other in (plain, half):
        assert not torch.allclose(active.corrupted, other.corrupted, rtol=1e-3)


def test_a_scorer_sees_the_pictures_that_the_pipeline_paints(pipe):
    seen = []

    def score(pictures, prompt):
        seen.append((pictures, prompt))
        return pictures.mean((1, 2, 3))

    score.name = "brightness"
    found = trace(pipe, PROMPT, "text", score=score, sites="text.0.mlp", negative="", guidance=4.0, **SMALL)
    assert found.score == found.settings["made_with"]["scorer"] == "brightness"
    scale = pipe.vae_scale_factor
    noise = torch.randn(1, 4, 16 // scale, 16 // scale, generator=torch.Generator().manual_seed(0))
    text = PROMPT.replace("[", "").replace("]", "")
    wanted = pipe(
        text, num_inference_steps=2, height=16, width=16, guidance_scale=4.0, latents=noise, output_type="pt"
    ).images[0]
    torch.testing.assert_close(seen[0][0][0], wanted.movedim(0, -1), atol=1e-4, rtol=1e-4)
    assert seen[0][1] == text


def test_the_rows_of_a_batch_do_not_depend_on_each_other(pipe):
    settings = TraceSettings(**SMALL, component="image", sites="unet.mid.*")
    together, alone = (
        open_tracer(pipe, dataclasses.replace(settings, rows=rows)).trace(PROMPT, [0]) for rows in (9, 2)
    )
    torch.testing.assert_close(together.restored, alone.restored, atol=1e-4, rtol=1e-3)


def test_pictures_of_shapes_are_scored(comfyui):
    """Its autoencoder has a configuration that a trace is known by, as diffusers' own have."""

    class Brightness:
        name = "brightness"

        def __call__(self, pictures, prompt):
            assert pictures.shape[1:] == (128, 128, 3) and prompt.endswith("van gogh")
            return pictures.mean((1, 2, 3))

    asked = {"sites": "text.0.self_attn", "steps": 1, "controls": 0}
    found = trace(shapes_pipeline(), "a red circle by [van gogh]", score=Brightness(), **asked)
    assert found.score == "brightness" and 0 < float(found.clean.mean()) < 1
    assert len(found.settings["made_with"]["vae configuration"]) == len(found.settings["made_with"]["vae weights"])


def test_the_lines_of_the_readme_run(tmp_path, monkeypatch, comfyui):
    from diff_quickfix.tracing.results.trace_file import load_trace

    readme = (Path(__file__).resolve().parents[3] / "README.md").read_text(encoding="utf-8")
    (block,) = (part for part in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "trace(pipe" in part)
    monkeypatch.chdir(tmp_path)
    assert 'sites="text.*.self_attn"' in block
    # One layer of six: what is asked is that the lines run.
    exec(block.replace("text.*", "text.0"), {})  # noqa: S102 - the README's own words
    found = load_trace(tmp_path / "van-gogh.safetensors")
    place = found.columns.index("all")
    row = found.sites.index("text.0.self_attn")
    # Shapes keeps its styles in the first self-attention.
    assert float(found.recovery()[row, place]) > 0.9


@pytest.mark.parametrize("component", ["text", "image"])
def test_offloading_goes_on_as_the_pipeline_does_it(pipe, component):
    """accelerate's hooks stand on the modules before, between and after the batches, and the pipeline knows them."""
    settings = {**SMALL, "sites": "*.0.*0.*_attn, text.0.mlp"}
    wanted, pictures = trace(pipe, PROMPT, component, **settings), painted(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    found = trace(pipe, PROMPT, component, **settings)
    torch.testing.assert_close(found.restored, wanted.restored, equal_nan=True)
    assert {id(hook.hook) for hook in pipe._all_hooks} == {
        id(module._hf_hook) for module in (pipe.text_encoder, pipe.unet, pipe.vae)
    }
    assert torch.equal(painted(pipe), pictures)
    pipe.remove_all_hooks()
    assert not any(hasattr(module, "_hf_hook") for module in (pipe.text_encoder, pipe.unet, pipe.vae))
