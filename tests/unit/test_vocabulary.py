"""CLIP's vocabulary is found where it can be, in a known order; else the user is told how to name it."""

import pytest
from diff_quickfix import vocabulary


@pytest.fixture
def nowhere(monkeypatch):
    """A machine that has no vocabulary."""
    for variable in ("SHAPES_TOKENIZER", "COMFYUI_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def make(folder):
    folder.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_text("")
    return folder


def test_each_place_in_its_order(nowhere, monkeypatch, tmp_path):
    own = make(tmp_path / "ComfyUI" / "comfy" / "sd1_tokenizer")
    monkeypatch.setattr(vocabulary, "__file__", str(tmp_path / "ComfyUI" / "custom_nodes" / "pack" / "vocabulary.py"))
    assert vocabulary.find_vocabulary() == own, "the ComfyUI that the pack lies in"
    other = make(tmp_path / "Other" / "comfy" / "sd1_tokenizer")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "Other"))
    assert vocabulary.find_vocabulary() == other
    monkeypatch.setenv("SHAPES_TOKENIZER", str(make(tmp_path / "named")))
    assert vocabulary.find_vocabulary() == tmp_path / "named"
    model = make(tmp_path / "model" / "tokenizer")
    assert vocabulary.find_vocabulary(None, model) == model
    (model / "merges.txt").unlink()
    assert vocabulary.find_vocabulary(None, model) == tmp_path / "named"


def test_nowhere(nowhere, tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary, "__file__", str(tmp_path / "a" / "b" / "vocabulary.py"))
    with pytest.raises(FileNotFoundError, match=r"nothing-here.*--tokenizer FOLDER"):
        vocabulary.find_vocabulary(tmp_path / "nothing-here")
