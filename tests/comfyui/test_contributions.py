"""What tokens of the text contribute to the picture in each attention, against attention computed by hand."""

import contextlib
import sys

import pytest
import torch
from door_models import CASES, present
from test_doors import built
from test_planted_images import PLANTED, planted
from test_transformer_sites import TRACED, run

TOKENS, ROWS = (1, 3), 3
# Where each family's module calls ComfyUI's attention, and by what name.
CALLED = {
    "flux": ("comfy.ldm.flux.math", "optimized_attention"),
    "sd3": ("comfy.ldm.modules.diffusionmodules.mmdit", "optimized_attention"),
    "qwen-image": ("comfy.ldm.qwen_image.model", "optimized_attention_masked"),
    "lumina2": ("comfy.ldm.lumina.model", "optimized_attention_masked"),
    "wan": ("comfy.ldm.wan.model", "optimized_attention"),
}


@pytest.fixture(params=[name for name in (*TRACED, "sd1", "sdxl") if name in CASES])
def family(request):
    if request.param not in present():
        assert request.param == "krea2"
        return "flux"
    return request.param


def measured(name, positions=TOKENS):
    from diff_quickfix.families.attentions import text_attentions
    from diff_quickfix.tracing.runs.contributions import contributions

    attentions = text_attentions(built(name).diffusion_model)
    with contributions(attentions, positions) as found:
        run(name, [(1, 1)] * ROWS)
    return found


def test_every_attention_of_text_and_picture_is_measured_and_the_run_stays_as_it_was(family):
    from diff_quickfix.families.attentions import text_attentions
    from diff_quickfix.families.transformer import image_sites
    from diff_quickfix.tracing.runs.contributions import contributions

    module = built(family).diffusion_model
    kinds = ("attn", "update", "cross_attn")
    wanted = [site.name for site in image_sites(module) if site.kind in kinds and "refiner" not in site.name]
    attentions = text_attentions(module)
    assert [one.site.name for one in attentions] == wanted
    plain = run(family, [(1, 1)] * ROWS)
    with contributions(attentions, TOKENS) as found:
        same = run(family, [(1, 1)] * ROWS)
    torch.testing.assert_close(same, plain, atol=1e-6, rtol=1e-5)
    assert all(0 < one.share < 1.5 and len(one.norms) == 1 and one.norm > 0 for one in found.values())
    assert not any(one.share for one in measured(family, ()).values())


@contextlib.contextmanager
def watched(name):
    """Queries, keys and values of every attention, as ComfyUI computes with them."""
    path, function = CALLED[name]
    module, seen = sys.modules[path], []
    original = getattr(module, function)

    def watch(q, k, v, heads, *args, **kwargs):
        out = original(q, k, v, heads, *args, **kwargs)
        if not kwargs.get("skip_reshape"):
            q, k, v = (one.flatten(2).unflatten(-1, (heads, -1)).transpose(1, 2) for one in (q, k, v))
        seen.append((q, k, v))
        return out

    setattr(module, function, watch)
    try:
        yield seen
    finally:
        setattr(module, function, original)


@pytest.mark.parametrize(
    ("name", "call", "site", "out", "text"),
    [
        ("flux", 1, "dit.double.1.attn", "double_blocks.1.img_attn.proj", 5),
        ("flux", 2, "dit.single.0.update", "single_blocks.0.linear2", 5),
        ("sd3", 0, "dit.double.0.attn", "joint_blocks.0.x_block.attn.proj", 5),
        ("qwen-image", 1, "dit.double.1.attn", "transformer_blocks.1.attn.to_out.0", 5),
        ("lumina2", -1, "dit.single.0.attn", "layers.0.attention.out", 5),
        ("wan", 1, "dit.cross.0.cross_attn", "blocks.0.cross_attn.o", 0),
    ],
)
def test_a_contribution_is_that_of_the_attention_by_hand(name, call, site, out, text):
    """Oracle: softmax of queries and keys, the tokens' values, the columns of the output map that read them."""
    with watched(name) as seen:
        run(name, [(1, 1)])
    q, k, v = (one[0].double() for one in seen[call])
    weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)[:, text:]
    matrix = built(name).diffusion_model.get_submodule(out).weight.double()

    def given(where):
        mixed = (weights[..., where] @ v[:, where]).transpose(0, 1).flatten(1)
        return (mixed @ matrix[:, : mixed.shape[-1]].T).norm(dim=-1).mean()

    found = measured(name)[site]
    own, whole = given(list(TOKENS)), given(slice(None))
    assert found.norm == pytest.approx(float(own), rel=2e-3)
    assert found.share == pytest.approx(float(own / whole), rel=2e-3)


@pytest.mark.parametrize(("name", "site", "end"), PLANTED, ids=lambda value: value)
def test_where_one_attention_alone_gives_anything_the_others_have_no_score(name, site, end, monkeypatch):
    if name not in present():
        assert name == "krea2"
        return

    class Model:
        diffusion_model = planted(name, end)

    for function in (run, measured):
        monkeypatch.setitem(function.__globals__, "built", lambda _: Model)
    norms = {one: value.norm for one, value in measured(name).items()}
    assert max(norms, key=norms.get) == site
    assert norms.pop(site) > 0 and not any(norms.values())


def test_rows_that_differ_are_refused():
    from diff_quickfix.families.attentions import text_attentions
    from diff_quickfix.tracing.runs.contributions import contributions
    from diff_quickfix.tracing.runs.interventions import InterventionError

    with (
        pytest.raises(InterventionError, match=r"not equal; give the model 3 times"),
        contributions(text_attentions(built("flux").diffusion_model), TOKENS),
    ):
        run("flux", [(1, 1), (2, 1), (1, 1)])
