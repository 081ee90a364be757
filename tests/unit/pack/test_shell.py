"""The shell, in process: what it writes, prints and returns. One call as a process: memory, and exit through Python."""

import io
import json
import os
import subprocess
import sys

import pytest
import torch
from diff_quickfix.cli import main
from diff_quickfix.cli.progress import progress
from diff_quickfix.quickfix import (
    GUARDED,
    PAPER,
    ConceptEdit,
    EditSettings,
    TensorFile,
    compute_edit,
    load_edit,
    read_edit_file,
)
from diff_quickfix.text import vocabulary
from model_files import config, laid_out, oracle, tower_weights, used_tokens, write
from safetensors.torch import load_file
from shell_models import HEADS, OUT_PROJ, VAN_GOGH, WIDTH, contents

# A place of the pack in no ComfyUI.
NOWHERE = os.path.join("no", "such", "folder", "of", "vocabulary.py")


def test_the_saved_edit_is_the_one_that_python_computes(model, shell, weights, tokenizer):
    code, out, err = shell("edit", model, *VAN_GOGH, "--out", "fix.safetensors")
    assert code == 0 and not err
    assert "efficacy" in out and "storage: rounded by" in out and "wrote fix.safetensors" in out
    wanted = compute_edit(oracle(weights, HEADS), tokenizer, [ConceptEdit("van gogh", "painting")], GUARDED)
    found = load_edit("fix.safetensors")
    assert torch.equal(found.up, wanted.up) and torch.equal(found.down, wanted.down)
    assert (found.concepts, found.settings, found.base) == (wanted.concepts, GUARDED, wanted.base)


def test_the_vocabulary_of_a_comfyui_serves_as_well_as_any(model, shell, comfyui, monkeypatch):
    assert shell("edit", model, *VAN_GOGH, "--out", "found.safetensors")[0] == 0
    monkeypatch.setattr(vocabulary, "__file__", NOWHERE)
    assert shell("edit", model, *VAN_GOGH, "--out", "none.safetensors")[0] == 1
    assert shell("edit", model, *VAN_GOGH, "--out", "named.safetensors", "--tokenizer", str(comfyui))[0] == 0
    found, named = load_edit("found.safetensors"), load_edit("named.safetensors")
    assert torch.equal(found.up, named.up) and torch.equal(found.down, named.down)


def test_every_option_reaches_the_edit(model, shell, tmp_path):
    (tmp_path / "edits.txt").write_text("# lines\n\nvan gogh -> painting\n  snoopy->dog | kind=object|weight=2\n")
    code, _, err = shell(
        "edit",
        model,
        "--edits",
        "edits.txt",
        "--edit",
        "dog -> painting",
        "--kind",
        "object",
        "--preset",
        "paper",
        "--layer",
        "1",
        "--lambda",
        "0.5",
        "--positions",
        "last",
        "--preserve",
        "a cat",
        "--preserve",
        "",
        "--naming",
        "comfyui",
        "--energy",
        "0.9",
        "--dtype",
        "fp16",
        "--out",
        "fix.safetensors",
    )
    assert code == 0, err
    file = read_edit_file("fix.safetensors")
    assert file.edit.concepts == (
        ConceptEdit("dog", "painting", "object"),
        ConceptEdit("van gogh", "painting"),
        ConceptEdit("snoopy", "dog", "object", weight=2.0),
    )
    assert file.edit.settings == EditSettings(1, 0.5, "last subject token", ("a cat", ""), PAPER.preserve_weight)
    assert (file.naming, file.energy) == ("comfyui", 0.9)
    assert all(value.dtype == torch.float16 for name, value in load_file("fix.safetensors").items() if "lora" in name)


def test_a_patched_copy_holds_the_edit_and_nothing_else_is_changed(model, shell, tmp_path, weights):
    before = (tmp_path / model).read_bytes()
    code, out, _ = shell(
        "edit", model, *VAN_GOGH, "--apply", "fixed.safetensors", "--out", "fix.safetensors", "--strength", "0.5"
    )
    assert code == 0 and "wrote fixed.safetensors" in out
    after, place = (tmp_path / "fixed.safetensors").read_bytes(), TensorFile(model).places[OUT_PROJ]
    assert (tmp_path / model).read_bytes() == before
    assert after[: place.start] == before[: place.start] and after[place.end :] == before[place.end :]
    base = weights["encoder.layers.0.self_attn.out_proj.weight"]
    wanted = (base.float() + load_edit("fix.safetensors").delta(0.5)).half()
    assert torch.equal(load_file("fixed.safetensors")[OUT_PROJ], wanted) and not torch.equal(wanted, base)


def test_what_a_console_cannot_write_is_replaced(model, tmp_path, monkeypatch):
    """The exit code tells of the work, not of the console's alphabet."""
    name, target = "\u91ce\u539f", "\u0417\u0438\u043c\u0430"
    (tmp_path / "e.json").write_text(json.dumps([{"source": name, "target": target}]))

    def run(*arguments):
        written = [io.BytesIO(), io.BytesIO()]
        with monkeypatch.context() as patch:
            for stream, to in zip(("stdout", "stderr"), written, strict=True):
                patch.setattr(sys, stream, io.TextIOWrapper(to, encoding="cp1252", write_through=True))
            return main(arguments), *(to.getvalue().decode("cp1252") for to in written)

    code, _, err = run("edit", model, "--edits", "e.json", "--out", f"{name}.safetensors")
    assert code == 0, err
    code, out, _ = run("inspect", f"{name}.safetensors")
    assert code == 0 and "?? -> ???? (style)" in out
    code, _, err = run("inspect", f"missing {name}.safetensors")
    assert code == 1 and "There is no file missing ??.safetensors" in err


def test_a_changed_file_is_the_edit_of_the_changed_list(model, shell, weights, tokenizer):
    options = ("--edit", "snoopy -> dog | kind=object", "--out", "fix.safetensors")
    assert shell("edit", model, *VAN_GOGH, *options)[0] == 0
    code, out, err = shell(
        "change",
        model,
        "fix.safetensors",
        "--drop",
        "van gogh",
        "--reweight",
        "snoopy: 2",
        "--add",
        "dog -> painting",
        "--out",
        "changed.safetensors",
        "--json",
    )
    assert code == 0, err
    wanted = [ConceptEdit("snoopy", "dog", "object", weight=2.0), ConceptEdit("dog", "painting")]
    found, anew = load_edit("changed.safetensors"), compute_edit(oracle(weights, HEADS), tokenizer, wanted, GUARDED)
    assert found.concepts == anew.concepts and found.settings == GUARDED
    assert (found.delta() - anew.delta()).norm() < 1e-5 * anew.delta().norm()
    assert [concept["source"] for concept in json.loads(out)["concepts"]] == ["snoopy", "dog"]
    assert [concept.source for concept in load_edit("fix.safetensors").concepts] == ["van gogh", "snoopy"]
    code, _, err = shell("change", model, "fix.safetensors", "--drop", "nemo")
    assert code == 1 and "no concept 'nemo'; it holds 'van gogh', 'snoopy'" in err
    code, _, err = shell("change", model, "fix.safetensors", "--drop", "snoopy", "--out", "fix.safetensors")
    assert code == 1 and "exists already" in err


def test_json_is_one_object_and_says_what_the_text_says(model, shell):
    code, out, err = shell("edit", model, *VAN_GOGH, "--out", "fix.safetensors", "--json")
    said = json.loads(out)
    assert code == 0 and not err
    assert said["tensor"] == OUT_PROJ and said["encoder"] == "clip_l" and said["out"] == "fix.safetensors"
    assert said["concepts"][0]["source"] == "van gogh" and said["settings"]["lam"] == 0.1
    edit = load_edit("fix.safetensors")
    assert said["rank"] == edit.rank and said["report"]["efficacy"] == edit.report.efficacy
    assert 0 < said["report"]["storage"]["error"] < 1
    shown = json.loads(shell("inspect", "fix.safetensors", "--json")[1])
    assert {name: shown[name] for name in ("rank", "base", "concepts", "settings")} == {
        name: said[name] for name in ("rank", "base", "concepts", "settings")
    }
    measured = json.loads(shell("report", model, "fix.safetensors", "--json")[1])
    assert measured["own_model"] is True
    for name in ("efficacy", "drift", "specificity"):
        assert measured["report"][name] == pytest.approx(said["report"][name], abs=1e-5)


def test_inspect_and_report_in_words(model, shell, tmp_path, weights):
    edits = [argument for number in range(25) for argument in ("--edit", f"dog {number} -> painting")]
    assert shell("edit", model, *edits, "--out", "fix.safetensors")[0] == 0
    code, out, _ = shell("inspect", "fix.safetensors")
    assert code == 0 and "Stable Diffusion 1.x" in out and "lambda 0.1" in out and "verdict" in out
    assert "  dog 3 -> painting (style)" in out and "and 5 more" in out and "dog 24" not in out
    other = {name: value + 0.001 for name, value in weights.items()}
    write(tmp_path / "other.safetensors", laid_out(other, "bare"))
    assert "the one that the edit was computed from" in shell("report", model, "fix.safetensors")[1]
    code, out, _ = shell("report", "other.safetensors", "fix.safetensors", "--strength", "0")
    assert code == 0 and "not the one" in out and "efficacy: 0.0%" in out


def test_an_edit_alone_is_only_reported(model, shell, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    code, out, _ = shell("edit", model, *VAN_GOGH)
    assert code == 0 and "nothing was written" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_files_are_not_replaced_unless_asked(model, shell, tmp_path, monkeypatch):
    assert shell("edit", model, *VAN_GOGH, "--out", "fix.safetensors")[0] == 0
    first = (tmp_path / "fix.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("diff_quickfix.cli.models.compute_edit", lambda *a, **k: pytest.fail("computed first"))
        code, out, err = shell("edit", model, "--edit", "snoopy -> dog", "--out", "fix.safetensors")
        assert (code, out) == (1, "") and "exists already" in err
        assert (tmp_path / "fix.safetensors").read_bytes() == first
        for option in ("--out", "--apply"):
            code, _, err = shell("edit", model, *VAN_GOGH, option, "./model.safetensors", "--overwrite")
            assert code == 1 and "is a file of the model itself" in err
        code, _, err = shell("edit", model, *VAN_GOGH, "--out", "missing/fix.safetensors")
        assert code == 1 and "There is no folder" in err
        (tmp_path / "folder.safetensors").mkdir()
        (tmp_path / "again.safetensors").symlink_to("model.safetensors")
        for option in ("--out", "--apply"):
            code, _, err = shell("edit", model, *VAN_GOGH, option, "folder.safetensors", "--overwrite")
            assert code == 1 and "is a folder; expected the name of a file" in err
            code, _, err = shell("edit", model, *VAN_GOGH, option, "again.safetensors", "--overwrite")
            assert code == 1 and "is a file of the model itself" in err
        (tmp_path / "here").symlink_to(".")
        for one, other in (("b", "./b"), ("b", str(tmp_path / "b")), ("fix", "here/fix"), ("here/c", "c")):
            names = ("--out", f"{one}.safetensors", "--apply", f"{other}.safetensors")
            code, _, err = shell("edit", model, *VAN_GOGH, *names, "--overwrite")
            assert code == 1 and "--out and --apply both name" in err
    assert shell("edit", model, "--edit", "snoopy -> dog", "--out", "fix.safetensors", "--overwrite")[0] == 0
    assert load_edit("fix.safetensors").concepts[0].source == "snoopy"


def test_sdxl_needs_a_name_and_is_warned_of(shell, tmp_path, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokens = used_tokens(tokenizer, "van gogh", "painting")
    for folder, width in (("text_encoder", WIDTH), ("text_encoder_2", 1280)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(config(width, width // 8))
        tensors = laid_out(tower_weights(width, 1, tokens, torch.float16), "bare")
        write(tmp_path / folder / "model.safetensors", tensors, tokens=tokens)
    code, _, err = shell("edit", ".", *VAN_GOGH)
    assert code == 1 and "several text encoders" in err and "2405.01008" in err
    options = ("edit", ".", *VAN_GOGH, "--encoder", "sdxl_clip_l", "--out", "fix.safetensors")
    code, _, err = shell(*options)
    assert code == 0 and "warning" in err
    assert load_edit("fix.safetensors").encoder == "sdxl_clip_l"
    moved = {
        name.split("_text_model")[0]
        for name, value in load_file("fix.safetensors").items()
        if value.ndim and value.any()
    }
    assert moved == {"lora_te1"}
    assert shell(*options, "--overwrite", "--quiet")[2] == ""
    assert shell("report", ".", "fix.safetensors", "--quiet")[0] == 0
    assert shell(*options[:4], "--encoder", "clip_g", "--apply", "../sdxl-fixed", "--quiet")[0] == 0
    before, after = (contents(folder) for folder in (tmp_path, tmp_path.parent / "sdxl-fixed"))
    assert {name for name in after if after[name] != before[name]} == {"text_encoder_2/model.safetensors"}
    assert "no text encoder clip_h" in shell("edit", ".", *VAN_GOGH, "--encoder", "clip_h")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required: COMMAND"),
        (("erase",), "invalid choice"),
        (("edit", "m"), "nothing to edit"),
        (("edit", "m", "--edit", "van gogh"), 'expected "SOURCE -> TARGET"'),
        (("edit", "m", "--edit", "-> painting"), 'expected "SOURCE -> TARGET"'),
        (("edit", "m", *VAN_GOGH, "--out", "fix.ckpt"), "ends in .safetensors"),
        (("edit", "m", *VAN_GOGH, "--energy", "0"), "above 0"),
        (("edit", "m", *VAN_GOGH, "--lambda", "much"), "invalid float"),
        (("edit", "m", *VAN_GOGH, "--encoder", "t5"), "invalid choice"),
        (("edit", "m", *VAN_GOGH, "--apply", "fixed"), "ends in .safetensors"),
        (("edit", "m", *VAN_GOGH, "--link"), "expected --apply FOLDER"),
        (("edit", "m", *VAN_GOGH, "--apply", "fixed.safetensors", "--link"), "expected --apply FOLDER"),
        (("change", "m"), "required: FILE"),
        (("change", "m", "f", "--energy", "2"), "above 0"),
        (("inspect",), "required: FILE"),
        (("report", "m", "f", "--strength", "nan"), "expected a number"),
    ],
)
def test_wrong_usage_is_2(shell, arguments, message):
    code, out, err = shell(*arguments)
    assert (code, out) == (2, "") and message in err and err.startswith("usage: diff-quickfix")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("edit", "missing.safetensors", *VAN_GOGH), "Cannot read missing.safetensors (No such file"),
        (("edit", "{model}", "--edits", "missing.txt"), "missing.txt"),
        (("edit", "{model}", "--edits", "{model}"), "ends in '.safetensors'; expected one of "),
        (("edit", "{model}", "--edits", "bad.txt"), "bad.txt, line 2, column 10: nothing stands after ->"),
        (("edit", "{model}", *VAN_GOGH, "--layer", "40"), "no layer 40"),
        (("edit", "{model}", *VAN_GOGH, "--lambda", "-1"), "lambda is -1"),
        (("edit", "{model}", "--edit", "a -> A"), "different target"),
        (("edit", "{model}", *VAN_GOGH, "--hold", "two cars"), "The prompts to hold"),
        (("edit", "{model}", *VAN_GOGH, "--edit", "van gogh -> dog"), "two targets"),
        (("edit", "{model}", *VAN_GOGH, "--tokenizer", "nowhere"), "No CLIP vocabulary"),
        (("inspect", "{model}"), "not an edit saved by this pack"),
        (("report", "{model}", "missing.safetensors"), "There is no file"),
    ],
)
def test_errors_are_1_and_one_line_without_a_traceback(model, shell, tmp_path, monkeypatch, arguments, message):
    (tmp_path / "bad.txt").write_text("van gogh -> painting\nsnoopy ->\n")
    if "--tokenizer" in arguments:
        monkeypatch.setattr(vocabulary, "__file__", NOWHERE)
    code, out, err = shell(*(argument.format(model=model) for argument in arguments))
    assert (code, out) == (1, "") and message in err
    assert err.startswith("diff-quickfix: error: ") and err.count("\n") == 1


def test_an_interrupt_is_130_and_leaves_nothing(model, shell, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("diff_quickfix.cli.output.progress", lambda *_: interrupt)
    before = sorted(path.name for path in tmp_path.iterdir())
    code, _, err = shell("edit", model, *VAN_GOGH, "--apply", "fixed.safetensors")
    assert code == 130 and "interrupted" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_progress_is_shown_for_long_work_only(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 6.0, 7.0, 8.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    show = progress("copying", quiet=False)
    for done in (1, 2, 3, 4):
        show(done, 4)
    assert capsys.readouterr().err == "copying: 50 %, 6 s\ncopying: 100 %, 8 s\n"
    assert progress("copying", quiet=True) is None
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    progress("computing", quiet=False)(1, 1)
    assert capsys.readouterr().err == ""


def test_help_names_every_command_and_imports_nothing_heavy(shell):
    code, out, _ = shell("--help")
    assert code == 0 and "exit codes" in out and all(name in out for name in ("edit", "inspect", "report"))
    code = "import sys; sys.argv = ['x', '--help']; import runpy\ntry: runpy.run_module('diff_quickfix', "
    code += "run_name='__main__')\nexcept SystemExit as e: sys.exit(e.code or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_a_checkpoint_of_4_gb_costs_little_memory(tmp_path, tokenizer):
    """As a process: what `edit` adds to the peak of the imports. The checkpoint is one hole but for its encoder."""
    tokens = used_tokens(tokenizer, "van gogh", "painting")
    tensors = laid_out(tower_weights(768, 1, tokens, torch.float16), "sd1")
    path = write(tmp_path / "model.safetensors", tensors, {"unet": ("F16", (2_000_000_000,))}, tokens)
    code = (
        "import resource, sys, tokenizers, torch\n"
        "import diff_quickfix.cli.commands\nfrom diff_quickfix.cli import main\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); code = main(sys.argv[1:]); print('added', peak() - before)\n"
        "assert 'transformers' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "edit", str(path), *VAN_GOGH, "--out", str(tmp_path / "fix.safetensors")]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    added = int(result.stdout.rsplit("added ", 1)[1])
    assert added < 200 * 1024, f"{added} KiB"
    assert load_edit(tmp_path / "fix.safetensors").rank > 0
