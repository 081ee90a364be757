"""Runs of ComfyUI's stock sampler, and the inputs of the tracing nodes."""

import torch

PROMPT = "a red circle on grass, in the style of van gogh"
STEPS = 4


def sample(model, positive, negative, *, batch=1, cfg=4.0, seed=3, sampler="euler", size=16):
    """What the stock KSampler does."""
    import nodes as stock

    latent = {"samples": torch.zeros(batch, 4, size, size)}
    return stock.common_ksampler(model, seed, STEPS, cfg, sampler, "normal", positive, negative, latent)[0]["samples"]


def gallery_pictures(model, clip, vae, texts, *, cfg, sampler, scheduler):
    """Pictures (n, 3, height, width) of prompts that a miniature with 16 latent channels paints, one by one."""
    import nodes as stock

    with torch.inference_mode():
        (negative,) = stock.CLIPTextEncode().encode(clip, "")
        pictures = []
        for text in texts:
            (positive,) = stock.CLIPTextEncode().encode(clip, text)
            latent = {"samples": torch.zeros(1, 16, 16, 16)}
            (made,) = stock.common_ksampler(model, 5, 10, cfg, sampler, scheduler, positive, negative, latent)
            pictures.append(vae.decode(made["samples"]).permute(0, 3, 1, 2).float())
        return torch.cat(pictures)


def conditioning(clip, text):
    """A prompt as the stock sampler takes it."""
    import nodes as stock

    with torch.inference_mode():
        return stock.CLIPTextEncode().encode(clip, text)[0]


def sweep_inputs(shapes, **changes):
    """The inputs of the tracing nodes for Shapes, small."""
    model, clip, vae = shapes
    return {
        "model": model,
        "clip": clip,
        "vae": vae,
        "negative": conditioning(clip, ""),
        "latent": {"samples": torch.zeros(1, 4, 16, 16)},
        "prompts": PROMPT.replace("van gogh", "[van gogh]"),
        "kind": "self_attn",
        "sites": "*",
        "window": 1,
        "noise": 3.0,
        "draws": 1,
        "seed": 0,
        "seeds": 1,
        "controls": 2,
        "steps": 2,
        "cfg": 3.0,
        "sampler_name": "ddim",
        "scheduler": "normal",
        "sever": "nothing",
        "batch_size": 8,
        "checkpoint": "",
        **changes,
    }


def hooks_of(module):
    """How many hooks hang on a module and its parts."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())
