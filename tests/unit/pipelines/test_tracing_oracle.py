"""Cells of traces beside plain hooks of PyTorch on diffusers' classes, in the pipeline's own call.

Nothing of the tracer is used for what is expected: the corrupted run is the pipeline painting another prompt, with as
many tokens, and the restored run is that, with one module's output put in from the clean run's own call.
"""

import random

import pytest
import torch
from diff_quickfix.pipelines import trace
from row_pipelines import pipeline
from small_pipelines import sd1, sdxl

CLEAN, OTHER = "a house by the dog, at night", "a house by the cat, at night"
PROMPT, AT = CLEAN.replace("dog", "[dog]"), 5
STEPS, SIDE, SEED = 2, 16, 7
CLIP_SITES = {"self_attn": "self_attn", "mlp": "mlp", "hidden": ""}
# Each site's module, by diffusers' and transformers' names, and which output is meant, where it gives several.
SITES = {
    "sd1": {
        "text.0.self_attn": ("text_encoder.0.self_attn", 0),
        "text.1.mlp": ("text_encoder.1.mlp", 0),
        "text.0.hidden": ("text_encoder.0", 0),
        "unet.down.0.r0.resnet": ("unet.down_blocks.0.resnets.0", 0),
        "unet.mid.a0.self_attn": ("unet.mid_block.attentions.0.transformer_blocks.0.attn1", 0),
        "unet.up.1.a1.cross_attn": ("unet.up_blocks.1.attentions.1.transformer_blocks.0.attn2", 0),
        "unet.down.0.a0.feed_forward": ("unet.down_blocks.0.attentions.0.transformer_blocks.0.ff", 0),
        "unet.down.0.b0.block": ("unet.down_blocks.0.attentions.0", 0),
    },
    "sdxl": {
        "text.l.0.hidden": ("text_encoder.0", 0),
        "text.l.1.hidden": ("text_encoder.1", 0),
        "text.g.1.self_attn": ("text_encoder_2.1.self_attn", 0),
        "unet.down.1.a0.self_attn": ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1", 0),
        "unet.up.0.r1.resnet": ("unet.up_blocks.0.resnets.1", 0),
        "unet.mid.a0.cross_attn": ("unet.mid_block.attentions.0.transformer_blocks.0.attn2", 0),
    },
    "sd3": {
        "text.l.0.self_attn": ("text_encoder.0.self_attn", 0),
        "text.g.0.mlp": ("text_encoder_2.0.mlp", 0),
        "text.t5.0.hidden": ("text_encoder_3.0", 0),
        "dit.double.0.attn": ("transformer.transformer_blocks.0.attn", 0),
        "dit.double.0.block": ("transformer.transformer_blocks.0", 1),
        "dit.text_in.entrance": ("transformer.context_embedder", 0),
    },
    "flux": {
        "text.t5.0.hidden": ("text_encoder_2.0", 0),
        "dit.double.0.text_attn": ("transformer.transformer_blocks.0.attn", 1),
        "dit.double.0.text_block": ("transformer.transformer_blocks.0", 0),
        "dit.single.0.block": ("transformer.single_transformer_blocks.0", 1),
        "dit.pooled_in.entrance": ("transformer.time_text_embed.text_embedder", 0),
    },
}
CELLS = [(name, site) for name, sites in SITES.items() for site in sites]


@pytest.fixture(scope="module")
def pipes(comfyui):
    return {"sd1": sd1(), "sdxl": sdxl(), **{name: pipeline(name, comfyui) for name in ("sd3", "flux")}}


def module_at(pipe, path):
    part, _, rest = path.partition(".")
    module = getattr(pipe, part)
    if part.startswith("text_encoder"):
        inner = getattr(module, "text_model", module)
        module = inner.encoder.block if hasattr(inner.encoder, "block") else inner.encoder.layers
    for name in rest.split("."):
        module = module[int(name)] if name.isdigit() else getattr(module, name)
    return module


def painted(pipe, prompt):
    """The pipeline's own call from the seed's noise; what it is guided by is the empty prompt."""
    flux, generator = hasattr(pipe, "text_encoder_2") and not hasattr(pipe, "unet"), torch.Generator().manual_seed(SEED)
    flux = flux and not hasattr(pipe, "text_encoder_3")
    part = getattr(pipe, "unet", None) or pipe.transformer
    side = SIDE // pipe.vae_scale_factor
    noise = torch.randn(1, part.config.in_channels // (4 if flux else 1), side, side, generator=generator)
    latents = pipe._pack_latents(noise, *noise.shape) if flux else noise
    more = {"max_sequence_length": 24} if hasattr(pipe, "transformer") else {}
    more |= {} if flux else {"negative_prompt": ""}
    with torch.no_grad():
        return pipe(
            prompt,
            num_inference_steps=STEPS,
            guidance_scale=3.0,
            height=SIDE,
            width=SIDE,
            latents=latents,
            output_type="latent",
            **more,
        ).images


def hooked(pipe, path, number, kept, places):
    """Keep, or put in, the prompt's row of what a module gives at some positions; the negative prompt's text is
    encoded by calls of their own, and stands first in the image model's batch."""
    calls = iter(list(kept))
    text = path.startswith("text_encoder")

    def keep(module, args, output):
        found = output if isinstance(output, torch.Tensor) else output[number]
        kept.append(found[-1].clone())

    def put(module, args, output):
        found = (output if isinstance(output, torch.Tensor) else output[number]).clone()
        value = next(calls)
        found[-1, places] = value[places]
        if isinstance(output, torch.Tensor):
            return found
        return (*output[:number], found, *output[number + 1 :])

    # Before transformers' own hooks, which hand on hidden states.
    return module_at(pipe, path).register_forward_hook(put if kept else keep, prepend=text)


def traced(pipe, site):
    """The tracer's trace of one site, and the column to look at."""
    text, long = site.startswith("text."), {"max_sequence_length": 24} if hasattr(pipe, "transformer") else {}
    found = trace(
        pipe,
        PROMPT,
        "text" if text else "image",
        sites=site,
        seeds=[SEED],
        replaced_by="cat",
        controls=0,
        steps=STEPS,
        guidance=3.0,
        negative="",
        height=SIDE,
        width=SIDE,
        **long,
    )
    return found, found.columns.index("last subject token") if text else 0


@pytest.mark.parametrize(("name", "site"), random.Random(4).sample(CELLS, len(CELLS)))
def test_a_cell_is_what_plain_hooks_say(pipes, name, site):
    pipe, (path, number) = pipes[name], SITES[name][site]
    pipe.set_progress_bar_config(disable=True)
    text = site.startswith("text.")
    at = AT
    if ".t5." in site:
        t5 = pipe.tokenizer_2 if name == "flux" else pipe.tokenizer_3
        at = t5.tokenize(CLEAN).index("\u2581dog")
    places, kept = ([at] if text else slice(None)), []
    encoded = {}
    with_hook = hooked(pipe, path, number, kept, places)
    clean = painted(pipe, CLEAN)
    with_hook.remove()
    corrupted = painted(pipe, OTHER)
    with_hook = hooked(pipe, path, number, kept, places)
    restored = painted(pipe, OTHER)
    with_hook.remove()
    if getattr(pipe, "vae", None) is not None:
        encoded = {"scale": pipe.vae.config.scaling_factor}

    def score(latents):
        return -float((latents - clean).square().mean().sqrt()) / encoded.get("scale", 1.0)

    found, column = traced(pipe, site)
    away = -float(found.corrupted)
    assert away > 1e-4
    assert score(corrupted) == pytest.approx(-away, rel=1e-3)
    assert float(found.restored[..., column]) == pytest.approx(score(restored), rel=1e-3, abs=1e-4 * away)


HEADS = {
    "text.0.self_attn.h1": "text_encoder.0.self_attn.out_proj",
    "unet.mid.a0.self_attn.h0": "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
}


@pytest.mark.parametrize("site", HEADS)
def test_a_head_is_its_columns_of_what_the_output_map_reads(pipes, site):
    pipe, path = pipes["sd1"], HEADS[site]
    pipe.set_progress_bar_config(disable=True)
    text, number = site.startswith("text."), int(site[-1])
    module, kept = module_at(pipe, path), []
    attention = module_at(pipe, path.removesuffix(".to_out.0").removesuffix(".out_proj"))
    count = attention.num_heads if text else attention.heads
    assert count > 1
    size = module.in_features // count
    columns, places = slice(number * size, (number + 1) * size), [AT] if text else slice(None)

    def keep(module, args):
        kept.append(args[0][-1].clone())

    def put(module, args):
        found, value = args[0].clone(), next(calls)
        found[-1, places, columns] = value[places, columns]
        return (found,)

    handle = module.register_forward_pre_hook(keep)
    clean = painted(pipe, CLEAN)
    handle.remove()
    corrupted, calls = painted(pipe, OTHER), iter(kept)
    handle = module.register_forward_pre_hook(put)
    restored = painted(pipe, OTHER)
    handle.remove()
    away, wanted = (float((one - clean).square().mean().sqrt()) for one in (corrupted, restored))
    found, column = traced(pipe, site)
    scale = away / -float(found.corrupted)
    assert away > 1e-4 and abs(wanted - away) > 1e-5 * away
    assert -float(found.restored[..., column]) * scale == pytest.approx(wanted, rel=1e-4)
