"""Sites, corruption and restored rows: restore everything, restore nothing, causality."""

import dataclasses

import pytest
import torch
from diff_quickfix.families.sites import SiteError, group_name, select, windows
from diff_quickfix.families.text_stacks import text_sites
from diff_quickfix.families.unet import unet_sites
from diff_quickfix.tracing.runs.cases import Restoration
from diff_quickfix.tracing.runs.corruption import CorruptionError, gaussian, replacement
from diff_quickfix.tracing.runs.interventions import InterventionError, Patch, adding, patching
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import (
    CONTEXT,
    LAST,
    LAYERS,
    SUBJECT,
    WIDTH,
    hooks_of,
    layers_of,
    make_case,
    make_encoder,
    make_unet,
    states,
)
from torch.nn import Linear


def names(model, kind):
    return tuple(site.name for site in text_sites(model) if site.kind == kind)


def with_share(case, **changes):
    """A case whose only text encoder has something else."""
    return dataclasses.replace(case, shares=(dataclasses.replace(case.shares[0], **changes),))


@pytest.fixture
def encoder():
    return make_encoder()


# --- sites -----------------------------------------------------------------------------------------------------------


def test_text_sites(encoder):
    found = [site.name for site in text_sites(encoder)]
    assert found[:4] == ["text.0.self_attn", "text.0.mlp", "text.0.hidden", "text.1.self_attn"]
    assert len(found) == 3 * LAYERS
    with pytest.raises(SiteError, match="no stack of transformer layers"):
        text_sites(Linear(2, 2))


def test_selection_and_windows(encoder):
    sites = text_sites(encoder)
    assert [s.name for s in select(sites, kinds=["mlp"], names="text.[0-1].*, text.3.*")] == [
        "text.0.mlp",
        "text.1.mlp",
        "text.3.mlp",
    ]
    with pytest.raises(SiteError, match=r"text\.0\.self_attn"):
        select(sites, names="unet.*")
    groups = windows(sites, 3)
    assert len(groups) == 3 * (LAYERS - 2)
    assert group_name(groups[1]) == "text.1..3.self_attn"
    assert all(len({site.kind for site in group}) == 1 for group in groups)
    assert {len(group) for group in windows(sites, 99)} == {LAYERS}
    with pytest.raises(SiteError):
        windows(sites, 0)


def test_unet_sites():
    unet = make_unet()
    found = {site.name: site.kind for site in unet_sites(unet)}
    assert found["unet.down.0.a1.self_attn"] == "self_attn"
    assert found["unet.mid.a0.cross_context"] == "cross_context"
    assert found["unet.up.1.r2.resnet"] == "resnet"
    names = [site.name.removeprefix("unet.") for site in unet_sites(unet) if site.kind in ("resnet", "block")]
    # In the order in which they run.
    blocks = ("down.0.b0.block", "down.0.r1.resnet", "down.0.b1.block", "down.0.d0.block")
    assert names[:6] == ["in.block", "down.0.r0.resnet", *blocks]
    cross = sum(kind == "cross_attn" for kind in found.values())
    assert cross == sum(name.endswith("attn2") for name, _ in unet.named_modules())
    with pytest.raises(SiteError, match="no UNet blocks"):
        unet_sites(Linear(2, 2))


# --- corruption ------------------------------------------------------------------------------------------------------


@given(multiple=st.floats(0.1, 10), draws=st.integers(1, 4), seed=st.integers(0, 2**40))
def test_noise_is_scaled_and_seeded(multiple, draws, seed):
    embeddings = torch.randn(2, 400, generator=torch.Generator().manual_seed(1))
    one = gaussian(embeddings, SUBJECT, multiple=multiple, draws=draws, seed=seed)
    more = gaussian(embeddings, SUBJECT, multiple=multiple, draws=draws + 1, seed=seed)
    assert torch.equal(one.deltas, more.deltas[:draws]), "a draw depends on the seed and its number alone"
    assert one.std == pytest.approx(multiple * float(embeddings.std()))
    assert 0.85 < float(one.deltas.std()) / one.std < 1.15
    assert len({float(delta.sum()) for delta in more.deltas}) == draws + 1


def test_corruption_refuses():
    embeddings = torch.randn(2, 8)
    for bad in ({"draws": 0}, {"std": 0.0}, {"std": float("nan")}, {"multiple": -1.0}):
        with pytest.raises(CorruptionError):
            gaussian(embeddings, SUBJECT, **bad)
    with pytest.raises(CorruptionError):
        gaussian(embeddings[:1], SUBJECT)
    with pytest.raises(CorruptionError, match="at most"):
        replacement(embeddings, SUBJECT, torch.randn(3, 8))
    with pytest.raises(CorruptionError, match="subject itself"):
        replacement(embeddings, SUBJECT, embeddings)


def test_replacement_gives_the_other_words(encoder):
    case = make_case(encoder)
    table = getattr(encoder, "text_model", encoder).embeddings.token_embedding.weight
    swap = replacement(table[[9, 10]], SUBJECT, table[[20, 21]])
    got = states(encoder, with_share(case, corruption=swap), Restoration(0))
    want = encoder(torch.tensor([[58, 7, 8, 20, 21, 11, 12, 59, 59, 59]])).last_hidden_state
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


# --- T1 to T5 in the text encoder ------------------------------------------------------------------------------------


def test_restoring_everything_is_the_clean_run_and_nothing_the_corrupted(encoder):
    case = make_case(encoder)
    clean, corrupted, everything, last = states(
        encoder,
        case,
        Restoration(None),
        Restoration(0),
        Restoration(0, names(encoder, "hidden")),
        Restoration(0, names(encoder, "hidden")[-1:]),
    )
    plain = case.encode(1)[0]
    assert torch.equal(clean, everything)
    assert torch.equal(clean, last), "the last layer at all positions is the clean conditioning"
    torch.testing.assert_close(clean, plain, atol=1e-5, rtol=1e-4)
    assert (clean - corrupted).abs().amax() > 0.1
    assert hooks_of(encoder) == 0


def test_a_row_patched_with_itself_does_not_change(encoder):
    case = make_case(encoder)
    everywhere = tuple(site.name for site in text_sites(encoder))
    corrupted, itself = states(encoder, case, Restoration(1), Restoration(1, everywhere, donor=1))
    assert torch.equal(corrupted, itself)


def test_positions_before_the_subject_carry_nothing(encoder):
    case = make_case(encoder)
    before = tuple(range(SUBJECT[0]))
    corrupted, *rest = states(
        encoder, case, Restoration(0), *(Restoration(0, (site.name,), before) for site in text_sites(encoder))
    )
    clean = states(encoder, case, Restoration(None))[0]
    assert all(torch.equal(corrupted, row) for row in rest)
    assert torch.equal(clean[: SUBJECT[0]], corrupted[: SUBJECT[0]])


def test_severing_undoes_what_runs_through_the_severed_sites(encoder):
    case = make_case(encoder)
    attention = names(encoder, "self_attn")
    first = names(encoder, "hidden")[:1]
    restored, severed, corrupted = states(
        encoder,
        case,
        Restoration(0, first, SUBJECT),
        Restoration(0, first, SUBJECT, severed=attention[1:]),
        Restoration(0),
    )
    # Only attention moves information between tokens: with it severed, nothing reaches the later ones.
    assert (restored[LAST] - corrupted[LAST]).abs().amax() > 1e-3
    assert torch.equal(severed[LAST], corrupted[LAST])
    assert (severed[list(SUBJECT)] - corrupted[list(SUBJECT)]).abs().amax() > 1e-3


def test_long_prompts_are_rows_of_their_own(encoder):
    case = make_case(encoder)

    def two_chunks(rows):
        ids = torch.tensor([[58, 1, 2, 3, 59, 59, 59, 59, 59, 59], [58, 7, 8, 9, 10, 11, 12, 59, 59, 59]])
        out = encoder(ids.repeat(rows, 1)).last_hidden_state
        return out.reshape(rows, 2 * CONTEXT, WIDTH)

    long = dataclasses.replace(with_share(case, chunks=2, chunk=1), encode=two_chunks)
    rows = (Restoration(None), Restoration(0), Restoration(1, ("text.1.mlp",), (LAST,)))
    short_states, long_states = states(encoder, case, *rows), states(encoder, long, *rows)
    torch.testing.assert_close(long_states[:, CONTEXT:], short_states, atol=1e-5, rtol=1e-4)
    assert torch.equal(long_states[0, :CONTEXT], long_states[1, :CONTEXT])


# --- hooks -----------------------------------------------------------------------------------------------------------


def test_no_hook_outlives_an_error(encoder):
    sites = {site.name: site for site in text_sites(encoder)}
    with (
        pytest.raises(ZeroDivisionError),
        adding(layers_of(encoder)[0], {0: torch.zeros(2, WIDTH)}, SUBJECT),
        patching(sites, [Patch(name, 0, 0) for name in sites]),
    ):
        assert hooks_of(encoder) == len(sites) + 1
        raise ZeroDivisionError
    assert hooks_of(encoder) == 0


def test_a_site_that_never_ran_is_reported(encoder):
    sites = {site.name: site for site in text_sites(encoder)}
    with pytest.raises(InterventionError, match="never ran"), patching(sites, [Patch("text.0.mlp", 0, 0)]):
        pass
    with pytest.raises(KeyError), patching(sites, [Patch("text.99.mlp", 0, 0)]):
        pass
