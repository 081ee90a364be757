"""The nodes that work on edits, on edits of doors: change, search, scan."""

import dataclasses

import pytest
import torch
from small_encoders import objects
from small_sdxl import small_clip, small_model
from test_remove_concept import weights_of

# The pack's own code; ComfyUI's version has little to do with it.
pytestmark = pytest.mark.newest

STYLES = "van gogh -> painting\ngeorges seurat -> painting"


@pytest.fixture(scope="module")
def models():
    """(MODEL, CLIP) by family: states of CLIPs, of an encoder that reads both ways, and of one behind modules."""
    made = {"sdxl": (small_model(), small_clip())}
    return lambda name: made[name] if name in made else objects(name)


@pytest.fixture
def remove(run):
    """Run "Remove Concept" on a list of concepts; returns (model, clip, edit, report)."""

    def remove(given, text=STYLES, **changes):
        concepts = run("ConceptEditList", text, "none").args[0]
        unguarded = {"breadth": "none", **changes}
        return run("RemoveConcept", *given, "", "", "style", 1.0, concepts=concepts, **unguarded).args

    return remove


def change(run, given, edit, drop="", add="", strength=1.0):
    """Run "Change Edit"; returns (clip, edit, report, model)."""
    model, clip = given
    return run("ChangeEdit", clip, edit, drop, add, "", strength, model=model).args


def close(one, other):
    pairs = [(one, other), *([(one.pooled, other.pooled)] if other.pooled is not None else [])]
    dense = [(a.up @ a.down, b.up @ b.down) for a, b in pairs]
    return all(float((a - b).norm()) < 1e-4 * float(b.norm()) for a, b in dense)


@pytest.mark.parametrize("family", ["sdxl", "flux", pytest.param("z-image", marks=pytest.mark.newest)])
def test_a_changed_edit_is_that_of_the_changed_list(run, models, remove, family):
    given = models(family)
    before = remove(given)[2]
    wanted_model, _, wanted, _ = remove(given, STYLES.split("\n")[0])
    clip, after, report, model = change(run, given, before, "georges seurat")
    assert after.concepts == wanted.concepts and close(after, wanted) and not close(before, wanted)
    assert [update.door for update in after.doors] == [update.door for update in wanted.doors]
    assert not clip.patcher.patches and not given[0].patches
    found, aim, plain = (weights_of(one) for one in (model, wanted_model, given[0]))
    for key in aim:
        assert float((found[key] - aim[key]).norm()) <= 1e-4 * float((aim[key] - plain[key]).norm()), key
    assert after.report.efficacy == pytest.approx(wanted.report.efficacy, abs=1e-3)
    assert "not the model" not in report and f"at {len(wanted.doors)} doors" in report
    off = change(run, given, before, "georges seurat", strength=0.0)[3]
    assert not off.patches


def test_the_states_that_a_lora_changes_are_read_anew(run, models, remove):
    """The sums that are kept belong to the CLIP as it was patched."""
    model, clip = models("sdxl")
    edit = remove((model, clip))[2]
    first = change(run, (model, clip), edit)[1]
    key = "clip_l.transformer.text_model.encoder.layers.1.mlp.fc2.weight"
    shape = clip.cond_stage_model.get_parameter(key).shape
    patched = clip.clone()
    patched.add_patches({key: ("diff", (torch.randn(shape, generator=torch.Generator().manual_seed(4)),))}, 0.2)
    second = change(run, (model, patched), edit)[1]
    assert close(second, remove((model, patched))[2]) and not close(second, first)
    skipping = clip.clone()
    skipping.clip_layer(-1)
    third = change(run, (model, skipping), edit)[1]
    assert close(third, remove((model, skipping))[2]) and not close(third, first)


def test_no_model_is_kept_alive(run, remove, nodes):
    import gc
    import sys
    import weakref

    ledgers = sys.modules["pack_under_test.nodes.host.editing.ledgers"]
    ledgers._KEPT.clear()
    model, clip = small_model(), small_clip()
    edit = remove((model, clip))[2]
    change(run, (model, clip), edit)
    assert ledgers._KEPT
    gone = weakref.ref(clip)
    del clip, model
    import comfy.model_management

    comfy.model_management.cleanup_models_gc()
    gc.collect()
    assert gone() is None and not ledgers._KEPT and edit.concepts


@pytest.mark.newest
def test_an_edit_of_a_conditioning_alone_is_changed_without_a_model(run, models):
    model, clip = models("sdxl")
    inputs = ("van gogh", "painting", "style", 1.0, "conditioning alone", "*", "last subject token")
    alone = run("EditImageModel", model, clip, *inputs).args[2]
    _, two, _, none = change(run, (None, clip), alone, add="georges seurat -> painting")
    assert none is None and not two.doors and two.pooled is not None and len(two.concepts) == 2
    _, back, _, _ = change(run, (None, clip), two, "georges seurat")
    assert close(back, alone)


def test_what_is_missing_is_told(run, models, remove):
    sdxl, flux = models("sdxl"), models("flux")
    edit = remove(sdxl)[2]
    with pytest.raises(ValueError, match=r"SDXL.* no model is connected"):
        change(run, (None, sdxl[1]), edit)
    with pytest.raises(ValueError, match=r"edit is of SDXL.*the model is Flux"):
        change(run, flux, edit)
    with pytest.raises(ValueError, match=r"edit is of SDXL.*the model is Flux"):
        run("CollateralRadar", sdxl[1], edit, 3, model=flux[0])
    with pytest.raises(ValueError, match="Connect the MODEL"):
        run("FindLambda", sdxl[1], "van gogh", "painting", "style", "guarded", 0, "default")
    with pytest.raises(ValueError, match="preset paper is one of text encoders"):
        run("FindLambda", sdxl[1], "van gogh", "painting", "style", "paper", 0, "default", model=sdxl[0])
    with pytest.raises(ValueError, match="no layer 2"):
        run("FindTarget", sdxl[1], "van gogh", "style", "guarded", 2, "default", model=sdxl[0])


@pytest.mark.newest
def test_the_radar_reads_states_behind_a_models_own_modules(run, models, remove):
    given = models("z-image")
    edit = remove(given)[2]
    report, _ = run("CollateralRadar", given[1], edit, 4, names="claude monet\na dog\ntwo cats", model=given[0]).args
    assert "looked at 3 prompts" in report and len(report.splitlines()) == 4


@pytest.mark.parametrize("kind", ["style", pytest.param("object", marks=pytest.mark.newest)])
def test_the_found_lambda_is_that_of_the_curve_of_the_edit_that_remove_concept_makes(run, models, kind):
    """Remove Concept with the found lambda reaches what the curve says; so its positions were those of the curve."""
    model, clip = models("sdxl")
    lam, _, report = run("FindLambda", clip, "van gogh", "painting", kind, "guarded", 0, "default", model=model).args
    assert report.startswith("looked at: the image model (SDXL")
    (row,) = [line.split() for line in report.splitlines() if line.endswith("<- knee")]
    edit = run("RemoveConcept", model, clip, "van gogh", "painting", kind, 1.0, lam=lam, breadth="none").args[2]
    assert edit.settings.lam == lam and edit.report.efficacy == pytest.approx(float(row[1].rstrip("%")) / 100, abs=2e-3)
    assert f"positions: {edit.settings.positions}; no list of names (breadth)\n" in report


@pytest.mark.newest
def test_targets_are_ranked_by_the_text_states(run, models):
    model, clip = models("sdxl")
    names = "painting\nphoto\nclaude monet"
    target, lam, report, picture = run(
        "FindTarget", clip, "van gogh", "style", "guarded", 0, "default", names, model=model
    ).args
    assert target in names.split("\n") and lam > 0 and picture.ndim == 4
    lines = report.splitlines()
    assert lines[0].startswith("looked at: the image model (SDXL") and f"'{target}'" in lines[1]
    edit = run("RemoveConcept", model, clip, "van gogh", target, "style", 1.0, lam=lam, breadth="none").args[2]
    (row,) = [line for line in lines if line.startswith(target + " ")]
    assert edit.report.efficacy == pytest.approx(float(row.split("%")[1]) / 100, abs=2e-3)


@pytest.mark.newest
def test_states_too_wide_for_a_search_are_refused_before_it_begins(run, models, monkeypatch, pack):
    import sys

    monkeypatch.setattr(sys.modules["pack_under_test.nodes.host.editing.searches"], "_WIDEST", 16)
    model, clip = models("sdxl")
    with pytest.raises(ValueError, match="text states of 128 dimensions; a search takes up to 16"):
        run("FindLambda", clip, "van gogh", "painting", "style", "guarded", 0, "default", model=model)


@pytest.mark.newest
def test_wide_states_and_many_concepts_are_computed_anew(run, models, remove, monkeypatch, pack):
    import sys

    ledgers = sys.modules["pack_under_test.nodes.host.editing.ledgers"]
    ledgers._KEPT.clear()
    monkeypatch.setattr(ledgers, "_WIDEST", 16)
    given = models("sdxl")
    edit = remove(given)[2]
    after = change(run, given, edit, "georges seurat")[1]
    assert not ledgers._KEPT and close(after, remove(given, STYLES.split("\n")[0])[2])
    assert dataclasses.replace(after.settings) == edit.settings
