"""One name for one site, whatever built the UNet; ComfyUI's own table of diffusers' names is the oracle."""

import comfy.ops
import comfy.utils
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from diff_quickfix.families.sites import select
from diff_quickfix.families.unet import site_names, unet_sites
from diffusers import UNet2DConditionModel

CROSS, PLAIN = "CrossAttn", ""
# By family: what ComfyUI detects, and the same for diffusers, at a tenth of the width.
FAMILIES = {
    "Stable Diffusion 1": (
        {
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": [1, 2, 4, 4],
            "transformer_depth": [1] * 6 + [0] * 2,
            "transformer_depth_middle": 1,
            "transformer_depth_output": [1] * 9 + [0] * 3,
        },
        ([CROSS, CROSS, CROSS, PLAIN], [32, 64, 128, 128], [1, 1, 1, 1]),
    ),
    "SDXL": (
        {
            "num_res_blocks": [2, 2, 2],
            "channel_mult": [1, 2, 4],
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_middle": 10,
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        },
        ([PLAIN, CROSS, CROSS], [32, 64, 128], [1, 2, 10]),
    ),
}


@pytest.fixture(params=FAMILIES)
def unets(request):
    """ComfyUI's UNet, diffusers' and ComfyUI's table of weights."""
    config, (kinds, widths, depths) = FAMILIES[request.param]
    common = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "context_dim": 64}
    common |= {"num_heads": 8, "use_spatial_transformer": True, "legacy": False, **config}
    table = comfy.utils.unet_to_diffusers(config)
    meta = torch.device("meta")
    ours = UNetModel(**common, device=meta, operations=comfy.ops.disable_weight_init)
    with meta:
        theirs = UNet2DConditionModel(
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            block_out_channels=tuple(widths),
            transformer_layers_per_block=tuple(depths),
            cross_attention_dim=64,
        )
    return ours, theirs, table


def test_both_trees_have_the_same_sites_in_the_same_order(unets):
    ours, theirs, table = unets
    sites, others = unet_sites(ours), unet_sites(theirs)
    assert [(site.name, site.kind) for site in sites] == [(site.name, site.kind) for site in others]
    assert len({site.name for site in sites}) == len(sites)
    paths, modules = {module: path for path, module in theirs.named_modules()}, dict(ours.named_modules())
    weights = {"self_attn": "to_q", "cross_attn": "to_q", "feed_forward": "net.2", "resnet": "conv1"}
    checked = 0
    for site, other in zip(sites, others, strict=True):
        if weight := weights.get(site.kind):
            key = table[f"{paths[other.module]}.{weight}.weight"]
            assert any(
                modules[key.removesuffix(end)] is site.module
                for end in (f".{weight}.weight", ".in_layers.2.weight")
                if key.endswith(end)
            )
            checked += 1
    assert checked > 50


def test_blocks_are_those_that_comfyui_runs(unets):
    ours, _, _ = unets
    blocks = [*ours.input_blocks, ours.middle_block, *ours.output_blocks]
    sites = [site for site in unet_sites(ours) if site.kind == "block"]
    assert [site.module for site in sites] == [list(block.children())[-1] for block in blocks]


def test_comfyuis_numbers_are_understood_in_patterns_and_in_files(unets):
    ours, _, _ = unets
    sites = unet_sites(ours)
    for site in sites:
        assert site_names([site.alias]) == (site.name,)
        assert site_names([site.name]) == (site.name,)
    for old, new in (
        ("unet.output.*", "unet.up.*"),
        ("unet.middle.*", "unet.mid.*"),
        ("unet.input.4.1.*", "unet.down.1.a0.*"),
    ):
        found = select(sites, names=old)
        assert found and found == select(sites, names=new)
    path = dict(ours.named_modules())
    (one,) = select(sites, names="unet.input.4.1.cross_attn")
    assert one.module is path["input_blocks.4.1.transformer_blocks.0.attn2"]
