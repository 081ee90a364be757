"""Remove Concept on SDXL at its real size, random weights in fp16 and bf16: 9 GB of memory, minutes of a processor.

What is seen here alone: the sizes of SDXL's 141 doors, both text encoders whole, and half precision at that width.
"""

import resource
import sys
import time

import pytest
import torch

pytestmark = pytest.mark.usefixtures("inference")
UNET = {
    "use_checkpoint": False,
    "image_size": 32,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "in_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "channel_mult": [1, 2, 4],
    "transformer_depth_middle": 10,
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_head_channels": 64,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}
# Relative rounding of a weight's number.
ROUNDING = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def fill(module, seed):
    """Weights of one short run of random numbers, again and again: drawing billions takes long."""
    run = torch.randn(1_000_003, generator=torch.Generator().manual_seed(seed))
    for name, parameter in module.named_parameters():
        norm = "norm" in name and name.endswith("weight") and parameter.ndim == 1
        scale = 0.02 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
        scale = 0.02 if "embedding" in name else scale
        flat = parameter.data.view(-1)
        for start in range(0, len(flat), len(run)):
            part = flat[start : start + len(run)]
            part.copy_(run[: len(part)] * scale + bool(norm))
        run = run.roll(7919)


@pytest.fixture(scope="module")
def clip(pack):
    """Both text encoders."""
    import comfy.sd
    import comfy.sdxl_clip

    class Target:
        clip = comfy.sdxl_clip.SDXLClipModel
        tokenizer = comfy.sdxl_clip.SDXLTokenizer
        params: dict = {}  # noqa: RUF012

    found = comfy.sd.CLIP(Target, model_options={"dtype": torch.float16})
    with torch.no_grad():
        fill(found.cond_stage_model, 2)
    return found


def image_model(dtype):
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SDXL(dict(UNET))
    config.set_inference_dtype(dtype, torch.float32)
    model = config.get_model({}, "", device="cpu")
    with torch.no_grad():
        fill(model.diffusion_model, 1)
    return comfy.model_patcher.ModelPatcher(model.eval(), torch.device("cpu"), torch.device("cpu"))


def painted(model, states):
    """What the sampler makes of some noise in one step, on a small picture."""
    import comfy.sample

    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(4))
    latent = torch.zeros_like(noise)
    return comfy.sample.sample(model, noise, 1, 1.0, "euler", "simple", states, states, latent, seed=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_remove_concept_at_real_size(run, pack, clip, dtype, capsys):
    """The node's edit at its doors, its map at all 141 of them, and a picture of one step that the edit changes."""
    import comfy.lora
    from pack_under_test.nodes.host.editing.image_model import open_image_model
    from pack_under_test.quickfix import at_doors

    import nodes as stock

    started = time.perf_counter()
    model = image_model(dtype)
    built = time.perf_counter()
    edited, same, edit, report = run("RemoveConcept", model, clip, "van gogh", "painting", "style", 1.0).args
    done = time.perf_counter()
    assert not same.patcher.patches and not model.patches and report.startswith("edited: the image model (SDXL")
    values = [update for update in edit.doors if update.door.kind == "value"]
    assert len(values) == 70 and len(edit.doors) == 71 and edit.rank > 0
    assert set(edited.patches) == {f"diffusion_model.{update.door.weight}" for update in edit.doors}
    opened = open_image_model(model)
    every = at_doors(edit, opened.family.doors(opened.weights.shapes()), opened.read)
    assert len(every.doors) == 141 and all(torch.isfinite(update.up).all() for update in every.doors)
    # Each door is W (1 + X) up to the rounding of what ComfyUI keeps.
    for update in every.doors:
        part = edit.pooled if update.door.kind == "pooled" else edit
        weight = model.model.diffusion_model.get_parameter(update.door.weight).float()
        read = weight[:, slice(*(update.door.columns or (None,)))]
        wanted = (read.double() @ part.up.double()) @ part.down.double()
        factors = every.factors(update)
        found = (factors.up @ factors.down)[:, slice(*(update.door.columns or (None,)))]
        assert float((found - wanted).norm()) <= 1e-4 * float(wanted.norm()), update.door.name
    for update in (values[0], values[-1]):
        key = f"diffusion_model.{update.door.weight}"
        weight, factors = model.model.diffusion_model.get_parameter(update.door.weight), edit.factors(update)
        kept = comfy.lora.calculate_weight(edited.patches[key], weight.float().clone(), key).to(dtype).float()
        wanted = weight.float() + factors.up @ factors.down
        assert float((kept - wanted).abs().max()) <= 2 * ROUNDING[dtype] * float(wanted.abs().max())
    prompt = stock.CLIPTextEncode().encode(clip, "a house in the style of van gogh")[0]
    before, after = painted(model, prompt), painted(edited, prompt)
    assert torch.isfinite(before).all() and torch.isfinite(after).all() and not torch.equal(before, after)
    rest, spent = time.perf_counter() - done, time.process_time()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    with capsys.disabled():
        print(
            f"\n{dtype}: built {built - started:.0f} s, edited {done - built:.0f} s, the rest {rest:.0f} s, "
            f"{spent:.0f} s of processor time in all, peak {most:.1f} GiB"
        )
