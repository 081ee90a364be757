"""Outputs of loaders whose file has no such part: ComfyUI delivers None, or a VAE without a network."""

import inspect

import pytest
import torch
from runs import sweep_inputs

# The pack's own code; ComfyUI's version has little to do with it.
pytestmark = pytest.mark.newest

# Types that a loader, or a node behind one, can leave empty.
SOCKETS = ("MODEL", "CLIP", "VAE", "CLIP_VISION", "CONDITIONING", "LATENT", "CORRUPTION", "CAUSAL_TRACE")


def required(node):
    """The inputs of a node that a loader may leave empty, by name."""
    return [
        entry.id
        for entry in node.define_schema().inputs
        if entry.io_type in SOCKETS and not getattr(entry, "optional", False)
    ]


def test_every_node_refuses_an_empty_input_by_name(nodes):
    checked = 0
    for node in nodes.values():
        parameters = inspect.signature(node.execute).parameters
        for name in required(node):
            # Anything is there but the one: what is wrong with the rest would be said in other words.
            given = {other: object() for other in parameters if other != "values"} | {name: None}
            with pytest.raises(ValueError) as error:
                node.execute(**given)
            assert f"the input {name} is empty" in str(error.value) and node.define_schema().display_name in str(
                error.value
            )
            assert f"Connect {name} to " in str(error.value)
            checked += 1
    assert checked > 20


@pytest.mark.usefixtures("inference")
@pytest.mark.parametrize("node", ["CausalTraceText", "CausalTraceUNet"])
@pytest.mark.parametrize("missing", ["vae", "a vae without weights", "model", "clip", "negative"])
def test_a_trace_of_an_incomplete_checkpoint_paints_nothing(nodes, shapes, monkeypatch, node, missing):
    import comfy.samplers
    import comfy.sd

    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", lambda *args, **kwargs: pytest.fail("painted"))
    # As ComfyUI makes it for a checkpoint that has none.
    empty = comfy.sd.VAE(sd={"model.diffusion_model.weight": torch.zeros(1)}) if "without" in missing else None
    name = missing.split()[1] if "without" in missing else missing
    more = {"columns": "tokens"} if node == "CausalTraceText" else {"step_windows": 1, "branch": "cond"}
    with pytest.raises(ValueError, match=f"the input {name} is empty"):
        nodes[f"DiffQuickFix_{node}"].execute(**sweep_inputs(shapes, **{name: empty}), **more)


def test_optional_inputs_may_stay_empty(nodes, shapes):
    (mean, scores) = (
        nodes["DiffQuickFix_CLIPScore"]
        .execute(nodes["DiffQuickFix_ShapesScorer"].execute("").args[0], torch.rand(1, 128, 128, 3), "a red circle")
        .args
    )
    assert isinstance(mean, float) and scores
