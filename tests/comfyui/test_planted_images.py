"""Planted knowledge: in an image transformer that hears the text in one place alone, a trace finds that place."""

import dataclasses
import re

import pytest
import torch
from door_models import CASES, TOKENS, build, drawn, present
from test_doors import inputs

# What a block's attentions and feed-forward networks end in, by any family's names.
ENDS = re.compile(
    r"(double_blocks|single_blocks|joint_blocks|transformer_blocks|layers|context_refiner|blocks)\.\d+\.(.+\.)?"
    r"(proj|linear2|fc2|(img|txt)_mlp\.2|w2|out|wo|down|to_out\.0|to_add_out|net\.2|o|ffn\.2)"
)
# A site, and the map that ends it; two blocks of each make.
PLANTED = [
    *(("flux", f"dit.double.{n}.attn", f"double_blocks.{n}.img_attn.proj") for n in range(2)),
    *(("flux", f"dit.single.{n}.update", f"single_blocks.{n}.linear2") for n in range(2)),
    *(("sd3", f"dit.double.{n}.attn", f"joint_blocks.{n}.x_block.attn.proj") for n in range(2)),
    *(("qwen-image", f"dit.double.{n}.attn", f"transformer_blocks.{n}.attn.to_out.0") for n in range(2)),
    *(("z-image", f"dit.single.{n}.attn", f"layers.{n}.attention.out") for n in range(2)),
    *(("krea2", f"dit.single.{n}.attn", f"blocks.{n}.attn.wo") for n in range(2)),
    *(("wan", f"dit.cross.{n}.cross_attn", f"blocks.{n}.cross_attn.o") for n in range(2)),
]
LONGER = {"flux": {"depth_single_blocks": 2}, "z-image": {"n_layers": 2}}
# These hold what came to them by others.
HOLDING = ("block", "text_block", "entrance", "cross_context")


def planted(name, end):
    """A model of a family in which everything in the blocks ends in zeros but one map."""
    case = CASES[name]
    module = build(dataclasses.replace(case, config={**case.config, **LONGER.get(name, {})})).diffusion_model
    with torch.no_grad():
        for path, child in module.named_modules():
            if path != end and ENDS.fullmatch(path):
                for parameter in child.parameters():
                    parameter.zero_()
    return module


def case_of(width):
    """A prompt whose words are told apart in two of its states."""
    from diff_quickfix.tracing.runs.cases import Case, Share
    from diff_quickfix.tracing.runs.corruption import gaussian

    entry, states = torch.nn.Identity(), drawn(3, 1, TOKENS, width)
    corruption = gaussian(states[0, 1:3], (1, 2))
    return Case("a b", "b", (Share("", corruption, entry),), lambda rows: entry(states.repeat(rows, 1, 1)))


@pytest.mark.parametrize(("name", "site", "end"), PLANTED, ids=lambda value: value)
def test_a_trace_finds_the_one_place_where_the_text_is_heard(name, site, end):
    from diff_quickfix.families.sites import windows
    from diff_quickfix.families.transformer import image_sites
    from diff_quickfix.tracing.runs.interventions import patching
    from diff_quickfix.tracing.runs.lockstep import sweep
    from diff_quickfix.tracing.runs.plan import Plan
    from diff_quickfix.tracing.scores.latent import latent_distance

    if name not in present():
        assert name == "krea2"
        return
    module = planted(name, end)
    sites = tuple(one for one in image_sites(module) if one.kind not in HOLDING)
    named = {one.name: one for one in sites}

    def paint(states, seed, patches):
        (noise, time), given = inputs(name)
        rows = len(states)
        given = {
            key: value.repeat(rows, 1) if isinstance(value, torch.Tensor) and value.ndim == 2 else value
            for key, value in given.items()
        }
        with torch.no_grad(), patching(named, patches):
            return module(
                noise.repeat(rows, *(1 for _ in noise.shape[1:])),
                time.repeat(rows),
                transformer_options={},
                **{**given, "context": states},
            )

    plan = Plan("unet", windows(sites, 1), sites, ("all steps",), (0,), (None,))
    trace = sweep([case_of(CASES[name].width)], plan, paint, latent_distance, rows=8, score_name="d").trace
    effects, total = trace.average_indirect_effect()[:, 0], float(trace.total_effects())
    assert total > 1e-6 and trace.sites[int(effects.argmax())] == site
    assert float(effects.max()) == pytest.approx(total, rel=1e-3)
    assert float(effects.abs().sort().values[-2]) < 1e-3 * total
