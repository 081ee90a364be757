"""Change Edit: the edit of the changed list, from a fresh edit or a file, and nothing kept alive."""

import gc

import pytest
import torch
from conditioning import encode

# The pack's own code; ComfyUI's version has little to do with it.
pytestmark = pytest.mark.newest

STYLES = "van gogh -> painting\ngeorges seurat -> painting | weight=2\npiet mondrian -> painting"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths,
        "loras",
        ([str(tmp_path / "loras")], folder_paths.supported_pt_extensions),
    )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


@pytest.fixture
def kept(nodes):
    """The ledgers that are kept, none of them at the start."""
    import sys

    ledgers = sys.modules["pack_under_test.nodes.host.editing.ledgers"]._KEPT
    ledgers.clear()
    return ledgers


@pytest.fixture
def listed(run, edit, shapes):
    """The edit of a list of concepts."""

    def make(text, **settings):
        return edit(shapes[1], source="", concepts=run("ConceptEditList", text, "none").args[0], **settings)

    return make


def change(run, clip, edit, drop="", add="", reweight="", strength=1.0, **more):
    return run("ChangeEdit", clip, edit, drop, add, reweight, strength, **more)


def close(one, other):
    return (one.delta() - other.delta()).norm() < 1e-5 * other.delta().norm()


@pytest.mark.parametrize("preset", ["guarded", "paper", "auto"])
def test_dropping_one_of_three_is_the_edit_of_two(run, shapes, listed, preset):
    _, before, _ = listed(STYLES, preset=preset)
    output = change(run, shapes[1], before, "van gogh")
    clip, after, report, model = output.args
    assert model is None
    wanted_clip, wanted, _ = listed(STYLES.split("\n", 1)[1], preset=preset, lam=before.settings.lam)
    assert close(after, wanted) and after.concepts == wanted.concepts and not close(before, wanted)
    prompt = "a red circle in the style of georges seurat"
    torch.testing.assert_close(encode(clip, prompt), encode(wanted_clip, prompt), atol=1e-4, rtol=1e-4)
    assert report == after.report.text() and output.ui["diff_quickfix_report"] == [report, after.report.as_dict()]
    # What came as it stands on the node, and nothing that came through a link.
    (settings,) = output.ui["diff_quickfix_settings"]
    assert settings == {"drop": "van gogh", "add": "", "reweight": "", "strength": 1.0}
    assert after.report.efficacy == pytest.approx(wanted.report.efficacy, abs=1e-4)
    assert after.report.storage is not None and after.report.final is not None


def test_an_edit_from_a_file_is_changed_like_a_fresh_one(run, shapes, listed, folders, kept):
    _, before, _ = listed(STYLES)
    name = run("SaveEditAsLoRA", before, "edit", "kohya", 1.0, "fp32").args[0]
    _, loaded, *_ = run("LoadEdit", shapes[1], name, 1.0).args
    changes = {"drop": "piet mondrian", "add": "bridget riley -> photo", "reweight": "van gogh: 0.5"}
    _, after, _ = change(run, shapes[1], loaded, **changes).args[:3]
    assert [(one.source, one.target, one.weight) for one in after.concepts] == [
        ("van gogh", "painting", 0.5),
        ("georges seurat", "painting", 2.0),
        ("bridget riley", "photo", 1.0),
    ]
    anew = STYLES.replace("van gogh -> painting", "van gogh -> painting | weight=0.5")
    _, wanted, _ = listed(anew.replace("piet mondrian -> painting", "bridget riley -> photo"))
    assert close(after, wanted) and after.settings == wanted.settings and after.base == wanted.base
    _, back, _ = change(run, shapes[1], after, "bridget riley", "piet mondrian -> painting", "van gogh: 1").args[:3]
    _, same, _ = change(run, shapes[1], loaded).args[:3]
    assert close(same, before) and torch.equal(back.delta(), same.delta()), "undo is exact"


def test_concepts_from_the_socket_are_added_too(run, shapes, listed):
    _, before, _ = listed("van gogh -> painting")
    more = run("AddConceptEdit", "georges seurat", "photo", "style", 3.0).args[0]
    _, after, _ = change(run, shapes[1], before, add="piet mondrian -> painting", concepts=more).args[:3]
    assert [concept.source for concept in after.concepts] == ["van gogh", "piet mondrian", "georges seurat"]
    assert after.concepts[2].weight == 3.0


def test_a_second_change_encodes_only_what_changes(run, shapes, listed, kept, monkeypatch):
    from pack_under_test.quickfix import Ledger

    made, of = [], Ledger.of_edit
    monkeypatch.setattr(Ledger, "of_edit", lambda *args, **more: (made.append(args), of(*args, **more))[1])
    _, before, _ = listed(STYLES)
    _, first, _ = change(run, shapes[1], before, "van gogh").args[:3]
    change(run, shapes[1], before, "georges seurat")
    change(run, shapes[1], first, "georges seurat")
    assert len(made) == 1


def test_no_edit_and_no_model_is_kept_alive(run, shapes, listed, kept):
    _, before, _ = listed(STYLES)
    for name in ("van gogh", "georges seurat", "piet mondrian", "van gogh", "georges seurat"):
        _, after, _ = change(run, shapes[1], before, name).args[:3]
        assert len(kept) <= 4
    assert kept
    del before, after
    gc.collect()
    assert not kept
    _, clip, _ = run("LoadShapesDemo").args
    _, before, _ = listed(STYLES)
    change(run, clip, before, "van gogh")
    assert len(kept) == 1, "the changed edit is gone already"
    del clip
    import comfy.model_management

    comfy.model_management.cleanup_models_gc()
    gc.collect()
    assert not kept and before.concepts


def test_strength_0_is_the_untouched_model_and_the_given_clip_stays(run, shapes, listed):
    clip, prompt = shapes[1], "a red circle in the style of van gogh"
    before = encode(clip, prompt)
    _, edit, _ = listed(STYLES)
    assert torch.equal(encode(change(run, clip, edit, "van gogh", strength=0.0).args[0], prompt), before)
    assert not torch.equal(encode(change(run, clip, edit, "piet mondrian").args[0], prompt), before)
    assert torch.equal(encode(clip, prompt), before)


def test_another_model_is_told_and_another_kind_of_encoder_refused(run, shapes, listed, edit):
    import dataclasses

    _, before, _ = listed(STYLES)
    foreign = dataclasses.replace(before, base="0" * 64)
    _, after, report = change(run, shapes[1], foreign, "van gogh").args[:3]
    assert report.startswith("This is not the model that the edit was computed from.\nverdict")
    assert after.base == before.base
    wide = dataclasses.replace(before, up=torch.zeros(768, 1), down=torch.zeros(1, 768))
    with pytest.raises(ValueError, match="made for another kind of model"):
        change(run, shapes[1], wide, "van gogh")
    deep = dataclasses.replace(before, settings=dataclasses.replace(before.settings, layer=40))
    with pytest.raises(ValueError, match="no layer 40"):
        change(run, shapes[1], deep, "van gogh")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": "monet"}, "no concept 'monet'; it holds 'van gogh', 'georges seurat', 'piet mondrian'"),
        ({"reweight": "van gogh 2"}, "line 1: cannot read 'van gogh 2' as a weight"),
        ({"add": "van gogh -> photo"}, "two targets"),
        ({"drop": "van gogh\ngeorges seurat\npiet mondrian"}, "holds no concepts"),
    ],
)
def test_changes_that_cannot_be_made_are_refused(run, shapes, listed, changes, message):
    _, before, _ = listed(STYLES)
    with pytest.raises(ValueError, match=message):
        change(run, shapes[1], before, **changes)


def test_an_edit_of_many_concepts_is_computed_anew(run, shapes, listed, kept):
    """A ledger of many concepts would cost more than the edit itself."""
    names = [f"artist {number}" for number in range(17)]
    _, before, _ = listed("\n".join(names), preset="paper")
    _, after, _ = change(run, shapes[1], before, names[3], reweight=f"{names[5]}: 2").args[:3]
    lines = [name + " -> painting | weight=2" * (name == names[5]) for name in names if name != names[3]]
    wanted = listed("\n".join(lines), preset="paper")[1]
    assert after.concepts == wanted.concepts and close(after, wanted) and not kept
