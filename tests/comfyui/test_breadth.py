"""Lists of names in Remove Concept and Edit Image Model: the default, its sums in a file, cancel."""

import importlib

import pytest
import torch
from diff_quickfix.quickfix import SHORT
from small_encoders import objects as small_objects
from small_sdxl import G_WIDTH, L_WIDTH, small_clip

# The pack's own code; ComfyUI's version has little to do with it.
pytestmark = pytest.mark.newest
# Some that Shapes knows: all of the list would take seconds.
FEW = ("circle", "square", "blue", "Vincent van Gogh", "Piet Mondrian")


@pytest.fixture
def part(pack):
    """A module of the pack under test, by its name: the nodes' own, of which the tests' are another copy."""
    return lambda name: importlib.import_module(f"{pack.__name__}.{name}")


@pytest.fixture
def forget(part):
    """Drop what is kept in memory of Gram matrices."""
    return part("quickfix.files.gram_cache").forget


@pytest.fixture(autouse=True)
def user_folder(part, forget, tmp_path, monkeypatch):
    """A user folder of its own, and a short list of a few names; gives the files of Gram matrices in the folder."""
    import folder_paths

    names = part("quickfix.concepts.names")
    whole = names.name_list(SHORT)
    places = [whole.names.index(name) for name in FEW]
    captions, kinds = (tuple(column[i] for i in places) for column in (whole.captions, whole.kinds))
    few = names.NameList(SHORT, FEW, captions, "few", kinds)
    for module in ("quickfix.breadth", "quickfix.breadth_rules"):
        monkeypatch.setattr(part(module), "name_list", lambda name: few)
    monkeypatch.setattr(part("quickfix.breadth_rules"), "SHORTER", {})
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    forget()
    yield lambda: {path: path.read_bytes() for path in (tmp_path / "diff_quickfix").rglob("*") if path.is_file()}
    part("quickfix.breadth").keep_grams_in(None)
    forget()


@pytest.fixture
def remove(run):
    """Run "Remove Concept" as it is set at first; returns (model, clip, edit, report)."""

    def remove(objects, concept="van gogh", becomes="painting", kind="style", **changes):
        return run("RemoveConcept", *objects, concept, becomes, kind, 1.0, **changes).args

    return remove


@pytest.fixture
def choose(run):
    """Run "Edit Image Model"; returns the edit."""

    def choose(objects, maps="default", **changes):
        chosen = maps, "*", "last subject token"
        return run("EditImageModel", *objects, "van gogh", "painting", "style", 1.0, *chosen, **changes).args[2]

    return choose


def test_the_short_list_guards_where_nobody_chose_one(objects, remove, choose, user_folder):
    edit, report = remove(objects, way="image model")[2:]
    assert edit.settings.breadth == SHORT and "guarded by breadth: " in report and "Vincent van Gogh" in report
    kept = user_folder()
    assert len(kept) == 1
    # The same edit as where it is chosen; what was kept of the list is read again, by another node too.
    for again in (remove(objects, way="image model", breadth="short")[2], choose(objects, breadth="auto")):
        torch.testing.assert_close(again.delta(), edit.delta(), rtol=1e-4, atol=1e-6)
        assert again.settings.breadth == SHORT and user_folder() == kept
    unguarded = remove(objects, way="image model", breadth="none")[2]
    assert not torch.allclose(unguarded.delta(), edit.delta()) and not unguarded.settings.breadth
    # Whoever chooses the maps chooses the list too.
    assert not choose(objects).settings.breadth


def test_the_text_encoder_is_guarded_too(shapes, remove):
    edit, report = remove(shapes[:2], "star", "circle", "object")[2:]
    assert report.startswith("edited: the text encoder") and edit.settings.breadth == SHORT
    assert "guarded by breadth: " in report


def test_a_report_says_why_no_list_guards(sdxl, remove, part, monkeypatch):
    edit, report = remove(sdxl, "the queen", "snoopy", "fact")[2:]
    assert not edit.settings.breadth and "no list of names guards the edit, since nobody has looked yet" in report
    monkeypatch.setattr(part("quickfix.breadth_rules"), "MOST_WORK", 1)
    edit, report = remove(sdxl)[2:]
    assert not edit.settings.breadth and "take this text encoder long to read" in report
    # Somebody who chooses it gets it, whatever it costs.
    assert remove(sdxl, breadth="short")[2].settings.breadth == SHORT


def test_another_clip_makes_its_own_sums_and_leaves_the_others(sdxl, remove, user_folder, forget):
    """A patch counts, whatever made it; taken away again, the first file is read."""
    model, clip = sdxl
    first = remove(sdxl)[2]
    (kept,) = user_folder()
    patched = clip.clone()
    name = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    weight = clip.patcher.model.state_dict()[name]
    assert patched.add_patches({name: (0.05 * torch.randn_like(weight),)}, 1.0) == [name]
    other = remove((model, patched))[2]
    assert len(user_folder()) == 2 and not torch.allclose(other.delta(), first.delta())
    before = user_folder()
    forget()
    torch.testing.assert_close(remove(sdxl)[2].delta(), first.delta(), rtol=1e-4, atol=1e-6)
    assert user_folder() == before and kept in before


def test_cancel_in_the_middle_of_a_list_leaves_nothing(part, sdxl, remove, user_folder, monkeypatch):
    import comfy.model_management as management

    said, module = [], part("quickfix.breadth")
    summed = module.symmetric_product

    def cancelled(keys):
        said.append(len(keys))
        management.interrupt_current_processing(len(said) == 3)
        return summed(keys)

    monkeypatch.setattr(part("nodes.host.breadth"), "say", said.append)
    monkeypatch.setattr(module, "symmetric_product", cancelled)
    monkeypatch.setattr(module, "_BATCH", 2)
    try:
        with pytest.raises(management.InterruptProcessingException):
            remove(sdxl)
    finally:
        management.interrupt_current_processing(False)
    # Told before the first captions are read, and ended after the second ones, of ten.
    first, *read = said
    assert first.startswith("reading ") and first.endswith(" captions of names, once for this text encoder")
    assert len(read) == 2 and not user_folder()
    monkeypatch.setattr(module, "symmetric_product", summed)
    assert remove(sdxl)[2].settings.breadth == SHORT and len(user_folder()) == 1


def test_change_edit_keeps_the_list_and_its_file(sdxl, remove, run, user_folder, forget):
    model, clip = sdxl
    edit = remove(sdxl)[2]
    before = user_folder()
    forget()
    changed = run("ChangeEdit", clip, edit, "", "monet -> painting", "", 1.0, model=model).args[1]
    assert changed.settings.breadth == SHORT and changed.report.breadth is not None and user_folder() == before


def test_lambda_and_target_are_searched_with_the_list_that_guards_the_edit(run, shapes, part):
    """Oracle: the kernels with the settings that Remove Concept edits with."""
    model, clip, _ = shapes
    inputs = {"kind": "style", "preset": "guarded", "layer": 0, "positions": "default", "model": model}
    chosen = run("RemoveConcept", model, clip, "van gogh", "painting", "style", 1.0, breadth="short").args[2].settings
    curves = [
        run("FindLambda", clip, "van gogh", "painting", **inputs, breadth=name).args
        for name in ("none", "short", "auto")
    ]
    assert curves[1][0] == curves[2][0] and curves[0][2] != curves[1][2]
    states = part("nodes.host.editing.searches").open_searched(clip, model, "style", None, chosen)
    concepts = [part("quickfix").ConceptEdit("van gogh", "painting")]
    wanted = part("quickfix").find_lambda(states.tower, states.tokenizer, concepts, chosen)
    assert curves[1][0] == wanted.best and wanted.text() in curves[1][2]
    ranked = run("FindTarget", clip, "van gogh", **inputs, candidates="photo", breadth="short").args
    judged = part("quickfix").find_target(states.tower, states.tokenizer, "van gogh", "style", ["photo"], chosen)
    assert ranked[1] == judged.best.lam


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_are_counted_whatever_they_are_stored_in(part, dtype):
    """Oracle: all matrices of a text tower but its embeddings."""
    count = part("quickfix.breadth_rules").linear_weights
    clip = small_clip().cond_stage_model.to(dtype)
    found = {name: count(getattr(clip, f"clip_{name}")) for name in "lg"}
    for name, width in (("l", L_WIDTH), ("g", G_WIDTH)):
        weights = getattr(clip, f"clip_{name}").transformer.state_dict().items()
        shapes = [value.shape for key, value in weights if value.ndim == 2 and "embedding" not in key]
        assert found[name] == sum(a * b for a, b in shapes) > 4 * width * width
    pictures = torch.nn.ModuleDict({"visual": torch.nn.Linear(3, 5), "layers": torch.nn.Linear(4, 7)})
    assert count(pictures) == 28
    assert count(small_objects("z-image")[1].cond_stage_model) > 0
