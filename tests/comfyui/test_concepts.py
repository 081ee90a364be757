"""Lists of concepts in the graph: text, files, chains, and what the editing node makes of them."""

import pytest
import torch
from conditioning import encode

# The pack's own code; ComfyUI's version has little to do with it.
pytestmark = pytest.mark.newest

PROMPT = "a red circle on grass, in the style of {x}"


@pytest.fixture
def gather(nodes):
    return lambda edits, file="none": nodes["DiffQuickFix_ConceptEditList"].execute(edits, file).args


@pytest.fixture
def add(nodes):
    def run(source, target="painting", kind="style", weight=1.0, **optional):
        return nodes["DiffQuickFix_AddConceptEdit"].execute(source, target, kind, weight, **optional).args[0]

    return run


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    return tmp_path


def test_a_list_and_a_chain_say_the_same(gather, add):
    concepts, report = gather("van gogh -> painting\nsnoopy -> dog | kind=object | weight=2")
    assert concepts == add("snoopy", "dog", "object", 2.0, concepts=add("van gogh"))
    assert report == "2 concepts\nvan gogh -> painting (style)\nsnoopy -> dog (object, weight 2)"
    with pytest.raises(ValueError, match=r"two targets, 'painting'.*and 'monet'"):
        add("Van Gogh", "monet", concepts=concepts)
    with pytest.raises(ValueError, match="holds no edit"):
        gather("# nothing")
    assert add("nemo", "fish", "custom", templates="{x}\na drawing of {x}")[0].templates == ("{x}", "a drawing of {x}")


def test_a_file_adds_to_the_text_and_repeats_are_told(nodes, gather, inputs):
    (inputs / "lists").mkdir()
    (inputs / "lists" / "more.csv").write_text("source,target\nvan gogh,painting\nnemo,fish\n", encoding="utf-8")
    concepts, report = gather("van gogh -> painting", "lists/more.csv")
    assert [concept.source for concept in concepts] == ["van gogh", "nemo"]
    assert "'van gogh' -> 'painting': counted once" in report
    options = nodes["DiffQuickFix_ConceptEditList"].define_schema().inputs[1].options
    assert list(options) == ["none", "lists/more.csv"]
    marks = [nodes["DiffQuickFix_ConceptEditList"].fingerprint_inputs("", "lists/more.csv")]
    import os

    os.utime(inputs / "lists" / "more.csv", (1, 1))
    marks.append(nodes["DiffQuickFix_ConceptEditList"].fingerprint_inputs("", "lists/more.csv"))
    assert marks[0] != marks[1]


@pytest.mark.parametrize("name", ["../secret.csv", "secret.png", "missing.json", "a\0.txt"])
def test_files_elsewhere_are_refused(gather, inputs, name):
    (inputs.parent / "secret.csv").write_text("source\nvan gogh\n", encoding="utf-8")
    with pytest.raises(ValueError, match="input folder"):
        gather("", name)


def test_many_concepts_in_one_solve(shapes, edit, gather):
    _, clip, _ = shapes
    concepts, _ = gather("van gogh -> painting\ngeorges seurat -> painting\npiet mondrian -> painting")
    edited, change, report = edit(clip, source="", concepts=concepts)
    assert change.concepts == concepts and "over 8" in report
    alone, _, _ = edit(clip)
    together, both, _ = edit(clip, source="bridget riley", concepts=concepts)
    assert [concept.source for concept in both.concepts][-1] == "bridget riley"
    for name in ("georges seurat", "piet mondrian"):
        prompt, plain = PROMPT.format(x=name), PROMPT.format(x="painting")
        before, target = encode(clip, prompt), encode(clip, plain)
        gaps = [float((encode(which, prompt) - target).norm()) for which in (clip, alone, edited)]
        assert gaps[2] < 0.7 * min(gaps[:2]), name
        assert not torch.equal(before, encode(together, prompt))
    same, _, _ = edit(clip, concepts=gather("van gogh -> painting")[0])
    assert torch.equal(encode(same, PROMPT), encode(alone, PROMPT)), "an edit that is in the list already counts once"
    with pytest.raises(ValueError, match="two targets"):
        edit(clip, target="monet", concepts=concepts)
    with pytest.raises(ValueError, match="source concept is empty"):
        edit(clip, source="")


def test_a_long_list_shows_progress_and_can_be_cancelled(shapes, edit, gather, monkeypatch):
    import comfy.model_management
    import comfy.utils

    _, clip, _ = shapes
    concepts, report = gather("\n".join(f"artist {number} -> painting | template={{x}}" for number in range(130)))
    assert report.startswith("130 concepts") and report.endswith("and 110 more")
    shown = []
    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", lambda bar, *step: shown.append(step[:2]))
    edit(clip, source="", concepts=concepts)
    assert shown == [(1, 3), (2, 3), (3, 3)]

    def cancel():
        raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        edit(clip, source="", concepts=concepts)
    assert not clip.patcher.patches
