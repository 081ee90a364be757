"""The nodes that guard an edit and report on it, on ComfyUI's own CLIP objects."""

import json

import pytest
import torch
from conditioning import encode
from diff_quickfix.quickfix import EVERYDAY, GUARDED, PRESERVE_SETS, prompts_of_text

# The pack's own code; ComfyUI's version has little to do with it.
pytestmark = pytest.mark.newest


@pytest.fixture
def inputs_folder(monkeypatch, tmp_path):
    import folder_paths

    folder = tmp_path / "input"
    folder.mkdir()
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(folder))
    return folder


NOTHING = {"empty_prompt": False, "everyday_captions": False, "colors_counts_places": False, "common_styles": False}


def test_sets_prompts_and_a_file_make_one_list(run, nodes, inputs_folder):
    (inputs_folder / "mine.txt").write_bytes('\ufeffa caf\u00e9\r\na dog\n""\n'.encode())
    assert run("PreserveSet", **NOTHING).args == ("",)
    for name, key in zip(PRESERVE_SETS, NOTHING, strict=True):
        (text,) = run("PreserveSet", **{**NOTHING, key: True}).args
        assert prompts_of_text(text) == PRESERVE_SETS[name]
    (text,) = run("PreserveSet", **{**NOTHING, "common_styles": True}, prompts="a dog\n\nmy cat", file="mine.txt").args
    assert prompts_of_text(text) == (*PRESERVE_SETS["common styles"], "a dog", "my cat", "a caf\u00e9", "")
    schema = nodes["DiffQuickFix_PreserveSet"].GET_SCHEMA()
    assert next(socket for socket in schema.inputs if socket.id == "file").options == ["none", "mine.txt"]


def test_a_changed_file_is_read_again(nodes, inputs_folder):
    import os

    node, path = nodes["DiffQuickFix_PreserveSet"], inputs_folder / "mine.txt"
    path.write_text("a dog")
    before = node.fingerprint_inputs(file="mine.txt", **NOTHING)
    os.utime(path, (1, 1))
    assert node.fingerprint_inputs(file="mine.txt", **NOTHING) != before
    assert node.fingerprint_inputs(**NOTHING) == node.fingerprint_inputs(file="none", **NOTHING)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../outside.txt", "names no text file"),
        ("link.txt", "names no text file"),
        ("mine.safetensors", "names no text file"),
        ("a\0.txt", "names no text file"),
        ("", "names no text file"),
        ("missing.txt", "no file 'missing.txt'"),
        ("folder.txt", "no file 'folder.txt'"),
        ("large.txt", "larger than 1 MiB"),
        ("latin.txt", "not UTF-8"),
    ],
)
def test_only_text_files_of_the_input_folder_are_read(run, inputs_folder, name, message):
    (inputs_folder.parent / "outside.txt").write_text("secret")
    (inputs_folder / "link.txt").symlink_to(inputs_folder.parent / "outside.txt")
    (inputs_folder / "folder.txt").mkdir()
    (inputs_folder / "large.txt").write_bytes(b"a\n" * 2**20)
    (inputs_folder / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=message):
        run("PreserveSet", **NOTHING, file=name)


def test_a_held_prompt_keeps_its_text_states(shapes, edit):
    """Through ComfyUI's own encoding, padding and all; the concept changes still."""
    clip = shapes[1]
    held, _, report = edit(clip, preserve='""', preserve_mode="hard")
    soft, _, _ = edit(clip, preserve='""')

    def change(edited, text):
        before = encode(clip, text)
        return float((encode(edited, text) - before).norm() / before.norm())

    assert change(held, "") < 1e-5 < change(soft, "")
    assert change(held, "a red circle by van gogh") > 0.1
    assert "held: 77 dimensions" in report


def test_holding_too_much_is_refused(shapes, edit):
    with pytest.raises(ValueError, match="span all 128 dimensions"):
        edit(shapes[1], preserve="\n".join(EVERYDAY[1:4]), preserve_mode="hard")


def test_the_radar_proposes_what_the_next_edit_spares(run, shapes, edit):
    clip = shapes[1]
    edited, change, _ = edit(clip)
    output = run("CollateralRadar", clip, change, 6)
    report, preserve = output.args
    told, numbers = output.ui["diff_quickfix_report"]
    rows = [line.split("%", 1) for line in report.splitlines()[1:]]
    assert told == report and [f"{drift:.2%}" for _, drift in numbers["hits"]] == [f"{row[0].strip()}%" for row in rows]
    assert all(name in row[1] for (name, _), row in zip(numbers["hits"], rows, strict=True))
    hits = [line.split("%", 1)[1].strip() for line in report.splitlines()[1:]]
    assert len(hits) == 6 and "van gogh" not in report.lower()
    assert [prompt for prompt in hits if prompt in prompts_of_text(preserve)] == list(prompts_of_text(preserve))
    # The clip may carry the edit already: the radar reads base weights.
    assert run("CollateralRadar", edited, change, 6).args == output.args
    _, spared, _ = edit(clip, preserve=preserve)
    before, after = (run("CollateralRadar", clip, e, 9, names=preserve).args[0] for e in (change, spared))
    worst = [float(text.splitlines()[1].split("%")[0]) for text in (before, after)]
    assert worst[1] < 0.5 * worst[0]


def test_the_radar_shows_progress_and_can_be_cancelled(run, shapes, edit, monkeypatch):
    import comfy.model_management

    _, change, _ = edit(shapes[1])

    def cancel():
        raise comfy.model_management.InterruptProcessingException

    with monkeypatch.context() as patch:
        patch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", cancel)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run("CollateralRadar", shapes[1], change, 6)


LAMBDA_INPUTS = {
    "source": "van gogh",
    "target": "painting",
    "kind": "style",
    "preset": "guarded",
    "layer": 0,
    "positions": "last subject token and padding",
}


def test_the_found_lambda_is_the_one_that_auto_takes(run, shapes, edit):
    output = run("FindLambda", shapes[1], **LAMBDA_INPUTS)
    lam, curve, report = output.args
    assert curve.shape[0] == 1 and curve.shape[3] == 3 and 0 <= curve.min() < curve.max() <= 1
    assert f"Best lambda: {lam:.4g}" in report and output.ui["diff_quickfix_report"] == [report]
    assert output.ui["diff_quickfix_settings"] == [LAMBDA_INPUTS]
    _, auto, _ = edit(shapes[1], preset="auto")
    _, given, _ = edit(shapes[1], lam=lam)
    assert auto.settings.lam == lam and torch.equal(auto.delta(), given.delta())
    assert auto.settings.preserve == GUARDED.preserve
    held = run("FindLambda", shapes[1], **LAMBDA_INPUTS, preserve='""', preserve_mode="hard").args[2]
    assert held != report


def test_one_lambda_for_a_list_is_the_one_that_auto_takes(run, shapes, edit):
    concepts, _ = run("ConceptEditList", "van gogh -> painting\ngeorges seurat -> painting", "none").args
    lam = run("FindLambda", shapes[1], **{**LAMBDA_INPUTS, "source": ""}, concepts=concepts).args[0]
    assert edit(shapes[1], preset="auto", source="", concepts=concepts)[1].settings.lam == lam
    both = run("FindLambda", shapes[1], **{**LAMBDA_INPUTS, "source": "piet mondrian"}, concepts=concepts)
    assert edit(shapes[1], preset="auto", source="piet mondrian", concepts=concepts)[1].settings.lam == both.args[0]
    with pytest.raises(ValueError, match="source concept is empty"):
        run("FindLambda", shapes[1], **{**LAMBDA_INPUTS, "source": ""})


TARGET_INPUTS = {name: value for name, value in LAMBDA_INPUTS.items() if name != "target"}


def test_a_rival_style_is_no_good_target_however_far_it_takes_the_concept(run, shapes, edit):
    """Pictures of Shapes say so: edited towards "georges seurat", van gogh's prompts are painted as seurat's."""
    rivals = ("georges seurat", "bridget riley", "katsushika hokusai")
    output = run("FindTarget", shapes[1], **TARGET_INPUTS, candidates="\n".join((*rivals, "painting", "photo")))
    target, lam, report, picture = output.args
    told, numbers = output.ui["diff_quickfix_report"]
    assert target in ("painting", "photo") and told == report and numbers["source"] == "van gogh"
    rows = {line[:20].strip(): float(line[20:].split("%")[0]) for line in report.splitlines()[2:7]}
    found = {name: 100 * moved for name, moved, _ in numbers["targets"]}
    assert found == pytest.approx(rows, abs=0.06)
    assert min(rows["painting"], rows["photo"]) > 50 > 20 > max(rows[rival] for rival in rivals)
    assert picture.shape[0] == 1 and picture.shape[3] == 3 and 0 <= picture.min() < picture.max() <= 1
    assert edit(shapes[1], target=target, preset="auto")[1].settings.lam == lam
    plain = run("FindTarget", shapes[1], **TARGET_INPUTS).args
    assert "drawing" in plain[2] and plain[0] in ("image", "picture", "painting", "artwork", "photo", "drawing")


def test_a_report_in_words_as_json_and_as_a_picture(run, shapes, edit):
    _, change, text = edit(shapes[1])
    words, plain, picture = run("EditReport", change, 640).args
    assert words == text and words.startswith("verdict: strong")
    assert json.loads(plain) == change.report.as_dict()
    assert json.loads(plain)["final"]["drift"] > 0 and json.loads(plain)["storage"]["realised"] > 0.99
    assert picture.shape[0] == 1 and picture.shape[2:] == (640, 3)
    _, _, paper = edit(shapes[1], preset="paper")
    assert paper.startswith("verdict: harmful: 6 of 6 names like it lose") and "everyday prompts move by" in paper


def test_the_reports_final_states_are_those_that_comfyui_makes(shapes, edit):
    """Oracle: ComfyUI's own encodings of the same captions, before and after, at the node's strength."""
    from diff_quickfix.quickfix.concepts.built_in import FINAL_CAPTIONS
    from diff_quickfix.quickfix.measure.effect import FINAL_TOKENS

    clip = shapes[1]
    edited, change, _ = edit(clip, strength=0.7)
    drifts = []
    for caption in FINAL_CAPTIONS:
        before, after = (encode(which, caption)[0, :FINAL_TOKENS] for which in (clip, edited))
        drifts.append(float((after - before).norm() / before.norm()))
    assert change.report.final.empty_prompt_drift == pytest.approx(drifts[0], rel=0.02)
    assert change.report.final.drift == pytest.approx(sum(drifts[1:]) / len(drifts[1:]), rel=0.02)
