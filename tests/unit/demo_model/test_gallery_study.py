"""The study of Shapes XL and Shapes DiT: what preserve sets name, what is counted, and that ways of editing agree."""

import dataclasses
from collections import Counter

import pytest
import torch
from diff_quickfix.demo_model.architecture import SHAPES_DIT, SHAPES_XL
from diff_quickfix.demo_model.clip import Clip
from diff_quickfix.demo_model.flux import new_transformer, velocity
from diff_quickfix.demo_model.studies import gallery
from diff_quickfix.demo_model.studies.gallery import outcome, study_prompts
from diff_quickfix.demo_model.studies.gallery_edits import STUDIED, OpenedDiT, OpenedXL
from diff_quickfix.demo_model.studies.gallery_trials import (
    CLIPS,
    DOORS_KEYS,
    DOORS_VALUES,
    KINDS,
    NAMING,
    STATES_ALONE,
    TRIALS,
    WAYS,
    Trial,
    trials_of,
)
from diff_quickfix.demo_model.t5 import DiTTexts
from diff_quickfix.demo_model.training import export
from diff_quickfix.demo_model.training.bidirectional import TAKEN
from diff_quickfix.demo_model.training.denoising import started_unet
from diff_quickfix.demo_model.training.training_set import FLUX_RECIPES, RECIPES
from diff_quickfix.demo_model.worlds.world import Scene, held_out
from safetensors.torch import save_file


@pytest.mark.parametrize("trial", [Trial("style", (("van gogh", "painting"),)), Trial("object", (("fish", "cup"),))])
def test_the_halves_are_apart_and_make_the_whole(trial):
    named = {naming: set(dataclasses.replace(trial, naming=naming).named()) for naming in NAMING}
    assert not named["none"] and named["half 1"].isdisjoint(named["half 2"])
    assert named["half 1"] | named["half 2"] == named["all"] == set(KINDS[trial.kind]) - set(trial.sources)


@pytest.mark.parametrize("trial", TRIALS[:12], ids=lambda trial: trial.name)
def test_a_preserve_set_names_no_value_that_is_judged_as_unnamed(trial):
    named = trial.named()
    for value in KINDS[trial.kind]:
        assert any(value in prompt for prompt in trial.preserved()) == (value in named), value


def test_a_list_of_names_holds_neighbours_beside_the_preserve_set():
    trial = Trial("object", (("fish", "cup"),), "half 1", breadth="short-1")
    guarded = trial.guarded()
    assert set(trial.named()) < set(guarded) and "fish" not in guarded
    assert "star" in guarded and set(KINDS["object"]) - {"fish"} - set(guarded)
    assert trial.preserved() == dataclasses.replace(trial, breadth="").preserved()


def test_trials_are_all_different():
    assert len({trial.name for trial in TRIALS}) == len(TRIALS) and {trial.way for trial in TRIALS} == set(WAYS)


def test_prompts_are_held_out_and_enough_for_every_value():
    prompts = study_prompts()
    assert all(held_out(prompt.scene) for prompt in prompts)
    assert len({prompt.seed for prompt in prompts}) == len(prompts)
    own = Counter((prompt.kind, getattr(prompt.scene, prompt.kind)) for prompt in prompts if prompt.own)
    assert own == {(trial.kind, source): gallery.OWN for trial in TRIALS for source in trial.sources}
    for trial in TRIALS:
        shown = [prompts[place] for place in gallery.shown(trial, prompts)]
        values = Counter(getattr(prompt.scene, trial.kind) for prompt in shown)
        assert all(values[source] == gallery.OWN for source in trial.sources)
        rest = [values[value] for value in KINDS[trial.kind] if value not in trial.sources]
        assert min(rest) >= gallery.OTHERS // len(KINDS[trial.kind])


def test_what_counts_is_what_read_right_before():
    trial = Trial("color", (("red", "blue"),), "half 1")
    named, unnamed = trial.named()[0], next(value for value in KINDS["color"] if value not in ("red", *trial.named()))
    colors = ["red", "red", "red", named, named, unnamed, unnamed]
    scenes = [Scene("star", color, "on grass") for color in colors]
    same = {"object": ["star"] * 7, "background": ["on grass"] * 7, "style": ["plain"] * 7}
    before = {**same, "color": ["red", "red", "pink", named, "gray", unnamed, unnamed]}
    after = {**same, "object": ["ring", *["star"] * 6], "color": ["blue", "red", "red", "blue", "blue", "red", unnamed]}
    found = outcome(trial, scenes, before, after, None)
    assert [(share.count, share.of) for share in (found.left, found.named, found.unnamed, found.rest)] == [
        (1, 2),
        (1, 1),
        (1, 2),
        (1, 7),
    ]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Shapes XL with random weights."""
    out = tmp_path_factory.mktemp("xl")
    state = torch.get_rng_state()
    torch.manual_seed(0)
    unet = started_unet(dataclasses.replace(RECIPES["xl"], warm=""))
    parts = {"clip": ("clip.", Clip(SHAPES_XL)), "unet": ("average.", unet)}
    torch.set_rng_state(state)
    for name, (prefix, module) in parts.items():
        tensors = {prefix + key: value.contiguous() for key, value in module.state_dict().items()}
        save_file(tensors, out / f"{name}.safetensors")
    architecture = dataclasses.replace(SHAPES_XL, folder=out / "own", shared=out / "world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "CAPTIONS", 200)
        export.export(RECIPES["xl"], out, architecture)
    shipped = SHAPES_XL.shared / "autoencoder.safetensors"
    (architecture.shared / shipped.name).symlink_to(shipped)
    return OpenedXL.load(architecture)


@torch.no_grad()
def test_all_doors_edited_is_the_conditioning_edited(opened):
    """The theorem of the doors, W (c + X c) = (W + W X) c, through a whole UNet."""
    trial = Trial("style", (("van gogh", "painting"),), way=DOORS_KEYS)
    doors, states = opened.edited(trial), opened.edited(dataclasses.replace(trial, way=STATES_ALONE))
    latent = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(1))

    def drawn(painter):
        given = painter.condition(["a red boat, van gogh", "a blue cup on sand"])
        return painter.denoiser(latent, 500, given.states, added_cond_kwargs=given.added).sample

    before, one, other = drawn(opened.pipeline), drawn(doors), drawn(states)
    moved = float((one - before).norm() / before.norm())
    assert moved > 1e-3
    torch.testing.assert_close(one, other, atol=1e-2 * moved * float(before.abs().max()), rtol=0)
    # Values alone do less.
    values = drawn(opened.edited(dataclasses.replace(trial, way=DOORS_VALUES)))
    assert not torch.allclose(values, one, atol=1e-2 * moved * float(before.abs().max()), rtol=0)


@torch.no_grad()
def test_an_edit_of_the_clips_changes_what_both_say(opened):
    edited = opened.edited(Trial("style", (("van gogh", "painting"),), way=CLIPS))
    before, after = (painter.condition(["a red boat, van gogh"]).states for painter in (opened.pipeline, edited))
    moved = (after - before).abs().amax((0, 1))
    widths = [stream.tower.width for stream in opened.states.streams]
    assert all(float(part.max()) > 1e-4 for part in moved.split(widths))
    assert torch.equal(edited.unet.conv_in.weight, opened.pipeline.unet.conv_in.weight)


@pytest.fixture(scope="module")
def opened_dit(tmp_path_factory):
    """Shapes DiT with random weights."""
    out, state = tmp_path_factory.mktemp("dit"), torch.get_rng_state()
    torch.manual_seed(0)
    parts = {
        TAKEN: ("", Clip(SHAPES_XL)),
        "t5.safetensors": ("t5.", DiTTexts().t5),
        "transformer.safetensors": ("average.", new_transformer()),
    }
    torch.set_rng_state(state)
    for file, (prefix, module) in parts.items():
        save_file({prefix + key: value.contiguous() for key, value in module.state_dict().items()}, out / file)
    architecture = dataclasses.replace(SHAPES_DIT, folder=out / "own", shared=SHAPES_DIT.shared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "CAPTIONS", 200)
        export.export_flux(FLUX_RECIPES["dit"], out, architecture)
    return OpenedDiT.load(architecture)


@torch.no_grad()
def test_the_editor_reads_what_the_transformer_reads(opened_dit):
    prompts = ["a red boat, van gogh", "three blue cups on sand"]
    given = opened_dit.pipeline.condition(prompts)
    rows = [prompt.ids[: SHAPES_DIT.length] for prompt in opened_dit.states.tokenizer.tokenize_all(prompts)]
    torch.testing.assert_close(opened_dit.states.states(rows), given.states, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(opened_dit.pooled(prompts), given.added["pooled_projections"])


@torch.no_grad()
def test_a_flux_s_doors_edited_are_its_conditioning_edited(opened_dit):
    """All of the text passes its two doors, so that both ways are one."""
    trial = Trial("style", (("van gogh", "painting"),))
    ways = [opened_dit.edited(dataclasses.replace(trial, way=way)) for way in STUDIED["dit"].ways]
    latent = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    levels = torch.full((2,), 0.5)

    def drawn(painter):
        given = painter.condition(["a red boat, van gogh", "a blue cup on sand"])
        return velocity(painter.denoiser, latent, levels, given.states, given.added["pooled_projections"])

    before, doors, states = map(drawn, [opened_dit.pipeline, *ways])
    moved = float((doors - before).norm() / before.norm())
    assert moved > 1e-3
    torch.testing.assert_close(doors, states, atol=1e-2 * moved * float(before.abs().max()), rtol=0)


def test_a_model_is_edited_in_its_own_ways_alone():
    assert trials_of(STUDIED["xl"].ways) == TRIALS
    own = trials_of(STUDIED["dit"].ways)
    assert own and {trial.way for trial in own} == set(STUDIED["dit"].ways) and not any(t.positions for t in own)
    assert {trial.sources for trial in own} == {trial.sources for trial in TRIALS}
