"""CLIP's vocabulary is found where it can be, in a known order; else the user is told how to name it."""

import pytest
from diff_quickfix.text import vocabulary
from hypothesis import given
from hypothesis import strategies as st


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
    monkeypatch.setattr(
        vocabulary, "__file__", str(tmp_path / "ComfyUI" / "custom_nodes" / "pack" / "text" / "vocabulary.py")
    )
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
    monkeypatch.setattr(vocabulary, "__file__", str(tmp_path / "a" / "b" / "text" / "vocabulary.py"))
    with pytest.raises(FileNotFoundError, match=r"nothing-here.*--tokenizer FOLDER"):
        vocabulary.find_vocabulary(tmp_path / "nothing-here")


TRICKY = [
    "",
    " ",
    "van gogh",
    'Van Gogh\'s "Sunflowers", 1889!!',
    "r2d2 it's they'll we'd I'M",
    "(van gogh:1.2)",
    "a\t\nb",
    "na\u00efve caf\u00e9 cafe\u0301",
    "\u91ce\u539f \u0417\u0438\u043c\u0430 \u2075",
    "\u216b",
    "\U0001f600\U0001f468\u200d\U0001f469",
    "x<|endoftext|>y",
    "<|startoftext|>",
    "<|EndOfText|>",
    "\u0130stanbul \ufb01ne",
    "word " * 200,
    "'s",
    "a'",
    "\xa0b\u2028c",
]


@pytest.fixture(scope="module")
def both():
    """Ours, and transformers' as the oracle."""
    return vocabulary.ClipTokenizer(vocabulary.find_vocabulary()), vocabulary.clip_tokenizer()


@given(text=st.text() | st.text("ab'1 .<|>sd\u00e9\u0301\n"))
def test_the_tokens_are_those_of_transformers(both, text):
    ours, theirs = both
    ids = ours(text)["input_ids"]
    assert ids == theirs(text)["input_ids"]
    assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)


def test_of_many_texts_too(both):
    ours, theirs = both
    assert ours(TRICKY)["input_ids"] == theirs(TRICKY)["input_ids"] == [ours(text)["input_ids"] for text in TRICKY]


def test_a_damaged_vocabulary_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no vocabulary of CLIP that can be read"):
        vocabulary.ClipTokenizer(make(tmp_path / "damaged"))
