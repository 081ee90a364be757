"""A trace's checkpoint goes on only with everything that changed no score; else what differs is named."""

import importlib

import pytest
import torch
from runs import conditioning, sweep_inputs

pytestmark = [pytest.mark.usefixtures("inference"), pytest.mark.newest]

UNET_KEY = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_out.0.weight"
CLIP_KEY = "clip_l.transformer.text_model.encoder.layers.1.self_attn.out_proj.weight"


def noise(*shape, seed=1, size=0.02):
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def patched_model(shapes, seed=1, strength=0.8):
    """A MODEL with a LoRA, as its loader patches it."""
    import comfy.lora

    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0"
    lora = {f"{name}.lora_up.weight": noise(64, 2, seed=seed), f"{name}.lora_down.weight": noise(2, 64, seed=seed + 9)}
    model = shapes[0].clone()
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    assert model.add_patches(comfy.lora.load_lora(lora, keys), strength)
    return model


def patched_clip(shapes, seed=1, strength=0.8):
    clip = shapes[1].clone()
    assert clip.add_patches({CLIP_KEY: ("diff", (noise(128, 128, seed=seed),))}, strength)
    return clip


def run_stock(module, name, *args):
    """A stock patching node, of the old or of the new kind."""
    node = getattr(importlib.import_module(f"comfy_extras.{module}"), name)
    if hasattr(node, "execute"):
        return node.execute(*args).args[0]
    return getattr(node(), node.FUNCTION)(*args)[0]


def free_u(model, b1=1.3):
    return run_stock("nodes_freelunch", "FreeU_V2", model, b1, 1.4, 0.9, 0.2)


def rescaled(model, amount):
    return run_stock("nodes_model_advanced", "RescaleCFG", model, amount)


def resampled(model, kind, zsnr):
    return run_stock("nodes_model_advanced", "ModelSamplingDiscrete", model, kind, zsnr)


def computing(model, dtype):
    model = model.clone()
    model.set_model_compute_dtype(dtype)
    return model


def skipping(clip, layer):
    clip = clip.clone()
    clip.clip_layer(layer)
    return clip


def hooked(clip, strength, start=0.5):
    import comfy.hooks
    from comfy_extras.nodes_hooks import SetClipHooks

    name = "lora_te_text_model_encoder_layers_1_self_attn_out_proj"
    lora = {f"{name}.lora_up.weight": noise(128, 2), f"{name}.lora_down.weight": noise(2, 128)}
    hooks = comfy.hooks.create_hook_lora(lora, 1.0, 1.0)
    frames = comfy.hooks.HookKeyframeGroup()
    frames.add(comfy.hooks.HookKeyframe(strength, start_percent=0.0))
    frames.add(comfy.hooks.HookKeyframe(0.5, start_percent=start))
    hooks.set_keyframes_on_hooks(frames)
    return SetClipHooks().apply_hooks(clip, True, True, hooks)[0]


def with_area(negative):
    import nodes as stock

    return stock.ConditioningSetArea().append(negative, 64, 64, 0, 0, 1.0)[0]


def other_weights(part):
    """The same network with one number of one weight changed."""

    def change(shapes, nodes):
        fresh = nodes["DiffQuickFix_LoadShapesDemo"].execute().args
        weight = next(
            value
            for key, value in {
                "model": fresh[0].model.diffusion_model,
                "clip": fresh[1].cond_stage_model,
                "vae": fresh[2].first_stage_model,
            }[part].named_parameters()
            if value.ndim > 1
        )
        weight.view(-1)[1234] += 0.01
        return {part: fresh[("model", "clip", "vae").index(part)]}

    return change


def same_weights(shapes, nodes):
    model, clip, vae = nodes["DiffQuickFix_LoadShapesDemo"].execute().args
    return {"model": model, "clip": clip, "vae": vae, "negative": conditioning(clip, "")}


# What is changed, and what the refusal names; None: it goes on.
CHANGES = {
    "loaded again": (same_weights, None),
    "rows": (lambda shapes, nodes: {"batch_size": 3}, None),
    "negative prompt": (lambda shapes, nodes: {"negative": conditioning(shapes[1], "ugly")}, "negative"),
    "negative's area": (lambda shapes, nodes: {"negative": with_area(conditioning(shapes[1], ""))}, "negative"),
    "negative, combined": (lambda shapes, nodes: {"negative": conditioning(shapes[1], "") * 2}, "negative"),
    "a LoRA on the model": (lambda shapes, nodes: {"model": patched_model(shapes)}, "model patches"),
    "a patch on the CLIP": (lambda shapes, nodes: {"clip": patched_clip(shapes)}, "CLIP patches"),
    "a weight of the model": (other_weights("model"), "model weights"),
    "a weight of the CLIP": (other_weights("clip"), "CLIP weights"),
    "a weight of the VAE": (other_weights("vae"), "VAE"),
    "FreeU": (lambda shapes, nodes: {"model": free_u(shapes[0])}, "model options"),
    "RescaleCFG": (lambda shapes, nodes: {"model": rescaled(shapes[0], 0.7)}, "model options"),
    "sampling": (lambda shapes, nodes: {"model": resampled(shapes[0], "v_prediction", False)}, "model options"),
    "compute dtype": (lambda shapes, nodes: {"model": computing(shapes[0], torch.bfloat16)}, "model options"),
    "clip skip": (lambda shapes, nodes: {"clip": skipping(shapes[1], -2)}, "CLIP options"),
    "CLIP hooks": (lambda shapes, nodes: {"clip": hooked(shapes[1], 1.0)}, "CLIP options"),
    "latent's content": (lambda shapes, nodes: {"latent": {"samples": noise(1, 16, 16, 16)}}, "latent"),
    "mask": (
        lambda shapes, nodes: {"latent": {"samples": torch.zeros(1, 4, 16, 16), "noise_mask": torch.ones(1, 64, 64)}},
        "latent",
    ),
    "which noise": (
        lambda shapes, nodes: {"latent": {"samples": torch.zeros(1, 4, 16, 16), "batch_index": [1]}},
        "latent",
    ),
    "size": (lambda shapes, nodes: {"latent": {"samples": torch.zeros(1, 4, 16, 24)}}, "size"),
    "scorer's words": (lambda shapes, nodes: {"scorer": scorer_of(nodes, "grass")}, "score"),
    "cfg": (lambda shapes, nodes: {"cfg": 3.5}, "cfg"),
    "steps": (lambda shapes, nodes: {"steps": 2}, "steps"),
    "sampler": (lambda shapes, nodes: {"sampler_name": "heun"}, "sampler"),
    "scheduler": (lambda shapes, nodes: {"scheduler": "karras"}, "scheduler"),
    "seed": (lambda shapes, nodes: {"seed": 1}, "seed"),
    "noise": (lambda shapes, nodes: {"noise": 2.0}, "multiple"),
    "words in its place": (lambda shapes, nodes: {"replaced_by": "bridget riley"}, "replaced by"),
    "extent": (lambda shapes, nodes: {"corrupt": "whole prompt"}, "extent"),
    "severed": (lambda shapes, nodes: {"sever": "mlp"}, "sever"),
    "controls": (lambda shapes, nodes: {"controls": 1}, "controls"),
}


def scorer_of(nodes, words=""):
    return nodes["DiffQuickFix_ShapesScorer"].execute(words).args[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture
def trace(nodes, shapes, folder, monkeypatch):
    """Run a small scored trace with a checkpoint; "painted" tells whether it painted anything."""
    import comfy.samplers
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(folder))
    painted = []
    sample = comfy.samplers.CFGGuider.sample
    monkeypatch.setattr(
        comfy.samplers.CFGGuider, "sample", lambda *args, **kwargs: painted.append(1) or sample(*args, **kwargs)
    )

    def run(checkpoint, **changes):
        painted.clear()
        given = {"sites": "text.0.*", "steps": 1, "controls": 0, "checkpoint": checkpoint, "scorer": scorer_of(nodes)}
        inputs = sweep_inputs(shapes, **{**given, **changes})
        nodes["DiffQuickFix_CausalTraceText"].execute(**inputs, columns="places", pictures=0)
        return len(painted)

    return run


@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_of_something_else_is_refused_by_name(nodes, shapes, trace, folder, name):
    if not list(folder.rglob("plain*")):
        assert trace("plain") > 0
    change, named = CHANGES[name]
    changes = change(shapes, nodes)
    if named is None:
        # The clean and the corrupted example are painted again.
        assert trace("plain", **changes) <= 1
        return
    with pytest.raises(ValueError, match=rf"made with other .*\b{named}\b"):
        trace("plain", **changes)


# The same nodes with other settings, or other content at the same strength.
PAIRS = {
    "LoRA's content": (
        lambda shapes: {"model": patched_model(shapes, 1)},
        lambda shapes: {"model": patched_model(shapes, 2)},
        "model patches",
    ),
    "LoRA's strength": (
        lambda shapes: {"model": patched_model(shapes, 1)},
        lambda shapes: {"model": patched_model(shapes, 1, 0.81)},
        "model patches",
    ),
    "CLIP patch's content": (
        lambda shapes: {"clip": patched_clip(shapes, 1)},
        lambda shapes: {"clip": patched_clip(shapes, 2)},
        "CLIP patches",
    ),
    "FreeU": (
        lambda shapes: {"model": free_u(shapes[0])},
        lambda shapes: {"model": free_u(shapes[0], 1.31)},
        "model options",
    ),
    "RescaleCFG": (
        lambda shapes: {"model": rescaled(shapes[0], 0.7)},
        lambda shapes: {"model": rescaled(shapes[0], 0.6)},
        "model options",
    ),
    "sampling": (
        lambda shapes: {"model": resampled(shapes[0], "eps", False)},
        lambda shapes: {"model": resampled(shapes[0], "eps", True)},
        "model options",
    ),
    "keyframes": (
        lambda shapes: {"clip": hooked(shapes[1], 1.0)},
        lambda shapes: {"clip": hooked(shapes[1], 0.9)},
        "CLIP options",
    ),
    "keyframes' start": (
        lambda shapes: {"clip": hooked(shapes[1], 1.0)},
        lambda shapes: {"clip": hooked(shapes[1], 1.0, 0.6)},
        "CLIP options",
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_patches_are_compared_by_content(shapes, trace, name):
    made, changed, named = PAIRS[name]
    checkpoint = f"pair-{list(PAIRS).index(name)}"
    assert trace(checkpoint, **made(shapes)) > 0
    assert trace(checkpoint, **made(shapes)) <= 1, "made anew of the same content, it goes on"
    with pytest.raises(ValueError, match=rf"made with other .*\b{named}\b"):
        trace(checkpoint, **changed(shapes))


def foreign(model, place, amount):
    """A MODEL with what another pack patches in: a function that this pack cannot read."""
    source = "def patch(*args, **kwargs):\n    return amount\n"
    scope = {"amount": amount, "__name__": "another_pack"}
    exec(compile(source, "/somewhere/another_pack.py", "exec"), scope)  # noqa: S102 - code from outside the pack
    clone = model.clone()
    if place == "wrapper":
        clone.add_wrapper_with_key("apply_model", "another_pack", scope["patch"])
    elif place == "callback":
        clone.add_callback_with_key("on_pre_run", "another_pack", scope["patch"])
    else:
        clone.set_model_sampler_post_cfg_function(scope["patch"])
    return clone


@pytest.mark.parametrize("place", ["wrapper", "callback", "model option"])
def test_other_packs_functions_are_the_same_only_as_the_same_object(pack, shapes, place, monkeypatch):
    identity = importlib.import_module(f"{pack.__name__}.nodes.host.identity")

    def digest(model):
        found, foreign_parts = identities(model)
        assert foreign_parts == {"options": ["another_pack.patch"]}
        return found

    def identities(model):
        return identity.identities(list(identity.patcher_parts(model).items()))

    once = foreign(shapes[0], place, 1)
    assert digest(once) == digest(once) == digest(once.clone())
    assert digest(once)["options"] != digest(foreign(shapes[0], place, 1))["options"], "it may depend on anything"
    assert digest(once)["weights"] == identities(shapes[0])[0]["weights"]
    # After a restart no object is known.
    before = digest(once)
    monkeypatch.setattr(identity, "_tokens", {})
    assert digest(once)["options"] != before["options"]


def test_using_a_model_changes_nothing_of_its_identity(pack, shapes, trace):
    """Sampling leaves timesteps, keyframes and patched weights behind in the objects."""
    identity = importlib.import_module(f"{pack.__name__}.nodes.host.identity")
    model, clip = free_u(patched_model(shapes)), hooked(patched_clip(shapes), 1.0)

    def all_of():
        parts = [*identity.patcher_parts(model).items(), *identity.clip_parts(clip).items()]
        return identity.identities([(f"{number} {name}", value) for number, (name, value) in enumerate(parts)])

    before = all_of()
    assert before[1] == {}
    trace("", model=model, clip=clip)
    assert all_of() == before


def test_a_cancelled_trace_without_a_checkpoint_goes_on_and_leaves_no_file(pack, nodes, shapes, monkeypatch, tmp_path):
    import comfy.model_management
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))
    tracing = importlib.import_module(f"{pack.__name__}.nodes.host.tracing.causal_trace")
    inputs = sweep_inputs(shapes, sites="text.0.*", steps=1, controls=0, batch_size=1, columns="tokens", seed=11)
    node = nodes["DiffQuickFix_CausalTraceText"]
    painted, ends_at = [], 3
    latent_distance = tracing.latent_distance

    def score(results, clean, prompt):
        painted.append(len(results))
        if len(painted) == ends_at:
            raise comfy.model_management.InterruptProcessingException
        return latent_distance(results, clean, prompt)

    monkeypatch.setattr(tracing, "latent_distance", score)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        node.execute(**inputs)
    (kept,) = (tmp_path / "diff_quickfix").iterdir()
    ends_at, before = 0, sum(painted)
    # Another trace starts over, this one goes on: what was measured is not painted again.
    other = node.execute(**{**inputs, "seed": 12}).args[0]
    whole = sum(painted) - before
    assert kept.exists()
    before = sum(painted)
    resumed = node.execute(**inputs).args[0]
    assert sum(painted) - before < whole
    assert not list((tmp_path / "diff_quickfix").iterdir())
    fresh = node.execute(**inputs).args[0]
    torch.testing.assert_close(resumed.restored, fresh.restored, rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(other.restored, fresh.restored)
