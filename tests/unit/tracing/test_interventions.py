"""What one copy, one shift and one row of a batch are, down to their edges."""

import dataclasses

import pytest
import torch
from diff_quickfix.families.sites import Site
from diff_quickfix.families.text_stacks import text_sites
from diff_quickfix.tracing.runs import cases
from diff_quickfix.tracing.runs.cases import Restoration
from diff_quickfix.tracing.runs.corruption import gaussian, replacement
from diff_quickfix.tracing.runs.interventions import InterventionError, Patch, adding, patching
from tiny_models import LAYERS, SUBJECT, make_case, make_encoder, states
from torch import nn


class Doubling(nn.Module):
    """A module whose output is the very tensor that it is given, as a residual stream's may be."""

    def forward(self, stream, context=None, mask=None, as_tuple=False):
        if context is not None:
            stream = stream + context.mean() + (0 if mask is None else mask.sum())
        return (stream, "weights") if as_tuple else stream


def patched(kind, patches, *args, step=None, **kwargs):
    site = Site("here", kind, Doubling())
    with patching({"here": site}, patches, step=lambda: step):
        return site.module(*args, **kwargs)


def rows(count=4):
    return torch.arange(count, dtype=torch.float32)[:, None, None] + torch.zeros(count, 3, 2)


def test_a_copy_takes_what_the_site_computed_and_leaves_what_it_was_given():
    stream = rows()
    out = patched("mlp", [Patch("here", 1, 0), Patch("here", 2, 1), Patch("here", 3, 2, (1,))], stream)
    assert torch.equal(stream, rows()), "earlier layers' outputs may be the same tensor"
    assert out[:, 0, 0].tolist() == [0, 0, 1, 3]
    assert out[3, :, 0].tolist() == [3, 2, 3], "the donor's own output, not what was copied into it"


@pytest.mark.parametrize(
    ("steps", "step", "copied"),
    [
        (None, 5, True),
        (range(2, 4), 1, False),
        (range(2, 4), 2, True),
        (range(2, 4), 3, True),
        (range(2, 4), 4, False),
        (range(0), 0, False),
        (range(3, 1), 2, False),
    ],
)
def test_a_copy_is_made_at_its_steps_alone(steps, step, copied):
    out = patched("mlp", [Patch("here", 1, 0, None, steps)], rows(), step=step)
    assert out[1, 0, 0].item() == (0 if copied else 1)


def test_of_a_tuple_the_first_is_patched_and_the_rest_kept():
    out, rest = patched("self_attn", [Patch("here", 1, 0)], rows(), as_tuple=True)
    assert out[1, 0, 0] == 0 and rest == "weights"


def test_a_context_is_patched_and_neither_the_queries_nor_a_mask():
    """Queries come first, and a mask of integers is no text."""
    site = Site("here", "cross_context", Doubling())
    seen = {}

    def look(module, args, kwargs):
        seen.update(queries=args[0], context=kwargs["context"], mask=kwargs["mask"])

    mask = torch.arange(4)
    with patching({"here": site}, [Patch("here", 1, 0)]):
        site.module.register_forward_pre_hook(look, with_kwargs=True)
        site.module(rows(), context=rows(), mask=mask)
    assert torch.equal(seen["queries"], rows()) and torch.equal(seen["mask"], mask)
    assert seen["context"][:, 0, 0].tolist() == [0, 0, 2, 3]


def test_a_site_without_a_tensor_is_refused_by_name_and_one_may_be_left_out():
    silent = Site("here", "mlp", nn.Identity())
    with pytest.raises(InterventionError, match="here gave dict"), patching({"here": silent}, [Patch("here", 1, 0)]):
        silent.module({})
    with patching({"here": silent}, [Patch("here", 1, 0)], must_run=False):
        pass


@pytest.mark.parametrize("named", [False, True])
def test_a_shift_adds_to_its_rows_and_positions_alone(named):
    """A layer may be given its input by position or by name."""

    class Layer(nn.Module):
        def forward(self, hidden_states):
            return hidden_states

    layer, stream = Layer(), rows()
    with adding(layer, {2: torch.full((1, 2), 10.0)}, (1,)):
        out = layer(hidden_states=stream) if named else layer(stream)
    wanted = rows()
    wanted[2, 1] += 10
    assert torch.equal(out, wanted) and torch.equal(stream, rows())
    with pytest.raises(KeyboardInterrupt), adding(layer, {}, (1,)):
        raise KeyboardInterrupt
    assert not layer._forward_pre_hooks


# --- rows ------------------------------------------------------------------------------------------------------------


def names(encoder, kind):
    return tuple(site.name for site in text_sites(encoder) if site.kind == kind)


@pytest.mark.parametrize("draw", [0, 1, 2])
@pytest.mark.parametrize("donor", [0, 1, 2])
def test_a_donor_is_the_draw_of_its_number_and_severed_sites_are_the_rows_own(draw, donor):
    encoder = make_encoder()
    case = make_case(encoder)
    last = names(encoder, "hidden")[-1:]
    got, wanted, severed, own = states(
        encoder,
        case,
        Restoration(draw, last, None, donor),
        Restoration(donor),
        Restoration(draw, names(encoder, "hidden")[:1], SUBJECT, donor, last),
        Restoration(draw),
    )
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(severed, own, atol=1e-6, rtol=0)


def test_rows_that_do_not_fit_into_one_pass_are_the_same(monkeypatch):
    encoder = make_encoder()
    case = make_case(encoder)
    asked = [Restoration(number % 3, names(encoder, "mlp")[number % LAYERS :][:1]) for number in range(7)]
    together = states(encoder, case, *asked)
    monkeypatch.setattr(cases, "_ENCODED_ROWS", 3)
    divided = states(encoder, case, *asked)
    assert divided.shape == together.shape
    torch.testing.assert_close(divided, together, atol=1e-6, rtol=0)


# --- corruption ------------------------------------------------------------------------------------------------------


def test_neighbouring_seeds_share_no_noise():
    embeddings = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    drawn = [tuple(delta.flatten().tolist()) for seed in range(4) for delta in gaussian(
        embeddings, SUBJECT, draws=4, seed=seed
    ).deltas]  # fmt: skip
    assert len(set(drawn)) == len(drawn)


def test_words_of_fewer_tokens_are_filled_up_with_their_last_and_may_share_a_token():
    own = torch.arange(12, dtype=torch.float32).reshape(4, 3)
    others = torch.stack([own[0], torch.full((3,), 50.0)])
    swapped = own + replacement(own, (1, 2, 3, 4), others).deltas[0]
    assert torch.equal(swapped, torch.cat([own[:1], torch.full((3, 3), 50.0)]))


def test_a_case_of_several_parts_finds_its_rows():
    share = dataclasses.replace(make_case(make_encoder()).shares[0], chunks=3, chunk=2)
    assert [share.index(row) for row in range(3)] == [(2,), (5,), (8,)]
