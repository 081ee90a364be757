"""Sites of ComfyUI's image transformers: restoring them is what plain hooks on the modules do, and ends in the clean
run where all of the text has been put back."""

import contextlib

import pytest
import torch
from door_models import CASES, TOKENS, present
from test_doors import built, inputs

# Families whose image model is a transformer that can be traced.
TRACED = (
    *("flux", "chroma", "flux2", "longcat", "ovis", "hunyuan-image", "sd3", "qwen-image"),
    *("z-image", "lumina2", "newbie", "krea2", "anima", "cosmos-predict2", "wan"),
)
CLEAN, OTHER, RESTORED = range(3)


@pytest.fixture(params=[name for name in TRACED if name in CASES])
def case(request):
    if request.param not in present():
        # Krea 2 came with a later ComfyUI than the oldest supported one.
        assert request.param == "krea2"
        return "flux"
    return request.param


def sites_of(name):
    from diff_quickfix.families.transformer import image_sites

    return {site.name: site for site in image_sites(built(name).diffusion_model)}


def run(name, rows, context=None):
    """What the model gives for rows that share their noise: one for each (seed of the text, seed of the pooled)."""
    each = [inputs(name, text=text, pooled=pooled) for text, pooled in rows]
    (noise, time), first = each[0]
    given = {}
    for key, value in first.items():
        batched = isinstance(value, torch.Tensor) and len(value) == 1
        given[key] = torch.cat([named[key] for _, named in each]) if batched else value
    module = built(name).diffusion_model
    with torch.no_grad(), context or contextlib.nullcontext():
        noise = noise.repeat(len(rows), *(1 for _ in noise.shape[1:]))
        return module(noise, time.repeat(len(rows)), transformer_options={}, **given)


def restored(name, sites, rows=((1, 1), (2, 2), (2, 2))):
    """What the model gives with some sites of the last row restored from the first."""
    from diff_quickfix.tracing.runs.interventions import Patch, patching

    every = sites_of(name)
    return run(name, rows, patching(every, [Patch(site, RESTORED, CLEAN) for site in sites]))


def close(one, other, before):
    """Whether two results agree, beside how far the text moves them."""
    moved = (before[OTHER] - before[CLEAN]).abs().max()
    assert moved > 1e-4
    return bool((one - other).abs().max() < 1e-3 * moved)


def entrances(name):
    found = [site for site in sites_of(name) if site.endswith((".entrance", ".cross_context"))]
    crossing = [site for site in found if site.endswith(".cross_context")]
    return crossing or found


def test_names_are_unique_and_kinds_are_known(case):
    from diff_quickfix.families.transformer import IMAGE_KINDS, TRANSFORMER_KINDS, image_sites

    sites = image_sites(built(case).diffusion_model)
    assert len({site.name for site in sites}) == len(sites)
    assert {site.kind for site in sites} <= set(TRANSFORMER_KINDS) <= set(IMAGE_KINDS)
    assert all(site.name.endswith(f".{site.kind}") and site.component == "dit" for site in sites)


def test_every_site_runs_and_a_copy_of_itself_changes_nothing(case):
    from diff_quickfix.tracing.runs.interventions import Patch, patching

    every = sites_of(case)
    same = [Patch(site, row, row) for site in every for row in range(2)]
    rows = ((1, 1), (2, 2))
    assert torch.equal(run(case, rows, patching(every, same)), run(case, rows))


def test_all_of_the_text_put_back_is_the_clean_run(case):
    """Of what enters, the text's states and the pooled vector; the noise is shared."""
    plain = run(case, ((1, 1), (2, 2), (2, 2)))
    found = restored(case, entrances(case))
    assert close(found[RESTORED], plain[CLEAN], plain)
    assert torch.equal(found[CLEAN], plain[CLEAN]) and torch.equal(found[OTHER], plain[OTHER])


def test_sdxl_is_clean_once_its_pooled_vector_is_put_back_too():
    plain = run("sdxl", ((1, 1), (2, 2), (2, 2)))
    crossing = [site for site in sites_of("sdxl") if site.endswith(".cross_context")]
    both = restored("sdxl", [*crossing, "unet.pooled_in.entrance"])[RESTORED]
    assert close(both, plain[CLEAN], plain)
    assert not close(restored("sdxl", crossing)[RESTORED], plain[CLEAN], plain)
    assert "unet.pooled_in.entrance" not in sites_of("sd1")


def test_the_last_block_holds_the_whole_picture(case):
    """The picture's part of it, where the pooled vector is one, ends in the clean run; the text's part in nothing."""
    rows = ((1, 1), (2, 1), (2, 1))
    plain = run(case, rows)
    last = [site for site in sites_of(case) if site.endswith(".block")][-1]
    assert close(restored(case, [last], rows)[RESTORED], plain[CLEAN], plain)
    text = last.replace(".block", ".text_block")
    if text in sites_of(case):
        assert close(restored(case, [text], rows)[RESTORED], plain[OTHER], plain)


def test_both_streams_of_the_first_block_put_back_are_the_clean_run(case):
    rows = ((1, 1), (2, 1), (2, 1))
    blocks = [site for site in sites_of(case) if site.endswith(".block") and "refiner" not in site]
    first, text = blocks[0], blocks[0].replace(".block", ".text_block")
    if text not in sites_of(case):
        assert "cross" in first
        return
    plain = run(case, rows)
    assert close(restored(case, [first, text], rows)[RESTORED], plain[CLEAN], plain)
    # The last block's picture alone is the clean run.
    alone = [restored(case, [one], rows)[RESTORED] for one in ([first] if len(blocks) > 1 else []) + [text]]
    assert not any(close(one, plain[CLEAN], plain) for one in alone)


TEXT, PICTURE = slice(None, TOKENS), slice(TOKENS, None)
EVERYTHING = slice(None)
# What a site is, by hand: the module, which of its outputs, and which positions.
BY_HAND = {
    "flux": {
        "dit.double.1.attn": ("double_blocks.1.img_attn.proj", None, EVERYTHING),
        "dit.double.0.text_attn": ("double_blocks.0.txt_attn.proj", None, EVERYTHING),
        "dit.double.0.text_feed_forward": ("double_blocks.0.txt_mlp", None, EVERYTHING),
        "dit.double.0.block": ("double_blocks.0", 0, EVERYTHING),
        "dit.double.0.text_block": ("double_blocks.0", 1, EVERYTHING),
        "dit.single.0.update": ("single_blocks.0.linear2", None, PICTURE),
        "dit.single.0.block": ("single_blocks.0", None, PICTURE),
        "dit.pooled_in.entrance": ("vector_in", None, EVERYTHING),
    },
    "chroma": {
        "dit.double.1.text_block": ("double_blocks.1", 1, EVERYTHING),
        "dit.single.0.block": ("single_blocks.0", None, PICTURE),
    },
    "sd3": {
        "dit.double.0.attn": ("joint_blocks.0.x_block.attn.proj", None, EVERYTHING),
        "dit.double.0.text_feed_forward": ("joint_blocks.0.context_block.mlp", None, EVERYTHING),
        "dit.double.0.block": ("joint_blocks.0", 1, EVERYTHING),
        "dit.double.0.text_block": ("joint_blocks.0", 0, EVERYTHING),
    },
    "qwen-image": {
        "dit.double.0.attn": ("transformer_blocks.0.attn", 0, EVERYTHING),
        "dit.double.0.text_attn": ("transformer_blocks.0.attn", 1, EVERYTHING),
        "dit.double.0.text_block": ("transformer_blocks.0", 0, EVERYTHING),
        "dit.double.1.block": ("transformer_blocks.1", 1, EVERYTHING),
    },
    "lumina2": {
        "dit.text_refiner.0.text_attn": ("context_refiner.0.attention", None, EVERYTHING),
        "dit.single.0.attn": ("layers.0.attention", None, PICTURE),
        "dit.single.0.text_attn": ("layers.0.attention", None, TEXT),
        "dit.single.0.feed_forward": ("layers.0.feed_forward", None, PICTURE),
        "dit.single.0.block": ("layers.0", None, PICTURE),
    },
    "krea2": {
        "dit.text_in.entrance": ("txtmlp", None, EVERYTHING),
        "dit.single.0.text_block": ("blocks.0", None, TEXT),
        "dit.single.1.feed_forward": ("blocks.1.mlp", None, PICTURE),
    },
    "anima": {
        "dit.cross.0.cross_attn": ("blocks.0.cross_attn", None, EVERYTHING),
        "dit.cross.0.feed_forward": ("blocks.0.mlp", None, EVERYTHING),
        "dit.cross.0.block": ("blocks.0", None, EVERYTHING),
    },
    "wan": {"dit.cross.1.self_attn": ("blocks.1.self_attn", None, EVERYTHING)},
}


@contextlib.contextmanager
def hooked(module, change):
    """A plain hook; ``change`` is given a copy of what the module gives."""
    handle = module.register_forward_hook(lambda _module, _given, out: change(copied(out)))
    try:
        yield
    finally:
        handle.remove()


def copied(out):
    return tuple(one.clone() for one in out) if isinstance(out, tuple) else out.clone()


@pytest.mark.parametrize(
    ("name", "site"), [(name, site) for name, sites in BY_HAND.items() for site in sites], ids=lambda value: value
)
def test_a_site_is_what_plain_hooks_restore(name, site):
    """Oracle: the clean run alone, recorded, and the other run alone, with the record in its place."""
    if name not in present():
        assert name == "krea2"
        return
    path, output, where = BY_HAND[name][site]
    module, kept = built(name).diffusion_model.get_submodule(path), []
    with hooked(module, lambda out: kept.append(copied(out))):
        run(name, [(1, 1)])

    def put_back(out):
        mine, clean = (out, kept[0]) if output is None else (out[output], kept[0][output])
        if where == EVERYTHING:
            mine.copy_(clean)
        else:
            mine[:, where] = clean[:, where]
        return out

    with hooked(module, put_back):
        wanted = run(name, [(2, 2)])[0]
    plain = run(name, ((1, 1), (2, 2), (2, 2)))
    found = restored(name, [site])[RESTORED]
    assert close(found, wanted, plain)
    assert not torch.equal(wanted, plain[OTHER])


def test_a_model_of_another_make_is_refused():
    from diff_quickfix.families.sites import SiteError
    from diff_quickfix.families.transformer import image_sites

    with pytest.raises(SiteError, match="PixArtMS holds no blocks that can be traced"):
        image_sites(built("pixart").diffusion_model)
    assert any(site.startswith("unet.") for site in sites_of("sd1"))
