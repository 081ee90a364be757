"""CLIP's vocabulary is found where it can be, in a known order; else the user is told how to name it."""

import json
import shutil

import pytest
from diff_quickfix.text import vocabulary
from diff_quickfix.text.prompts import PromptTokenizer
from diff_quickfix.text.subjects import find_subject
from hypothesis import given
from hypothesis import strategies as st


def make(folder):
    folder.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_text("")
    return folder


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """The pack in the custom_nodes of a ComfyUI, which is returned."""
    comfyui = tmp_path / "ComfyUI"
    file = comfyui / "custom_nodes" / "pack" / "text" / "vocabulary.py"
    monkeypatch.setattr(vocabulary, "__file__", str(file))
    return comfyui


def test_each_place_in_its_order(installed, tmp_path):
    own = make(installed / "comfy" / "sd1_tokenizer")
    assert vocabulary.find_vocabulary() == vocabulary.find_vocabulary(None) == own, "the ComfyUI that the pack lies in"
    beside = make(installed / "custom_nodes" / "pack" / "vocabulary")
    assert vocabulary.find_vocabulary() == beside, "a folder in the pack's own"
    other = make(tmp_path / "Other" / "comfy" / "sd1_tokenizer")
    assert vocabulary.find_vocabulary(tmp_path / "Other") == other, "a ComfyUI by its own folder"
    model = make(tmp_path / "model" / "tokenizer")
    assert vocabulary.find_vocabulary(None, model, tmp_path / "Other") == model
    assert vocabulary.find_vocabulary(str(model)) == model
    (model / "merges.txt").unlink()
    assert vocabulary.find_vocabulary(model, tmp_path / "Other") == other


def test_no_variable_of_the_environment_counts(installed, monkeypatch, tmp_path):
    make(tmp_path / "Other" / "comfy" / "sd1_tokenizer")
    for name in ("COMFYUI_PATH", "SHAPES_TOKENIZER"):
        monkeypatch.setenv(name, str(tmp_path / "Other"))
    with pytest.raises(FileNotFoundError):
        vocabulary.find_vocabulary()


def test_nowhere(installed, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing-here, .*ComfyUI\)\. .*--tokenizer FOLDER"):
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


ADDED = {"<cat-toy>": 49408, "sks2": 49409}


@pytest.fixture(scope="module")
def inverted(tmp_path_factory):
    """CLIP's tokenizer with tokens of textual inversion: as transformers 5 saves it, and as earlier versions did."""
    theirs = vocabulary.clip_tokenizer()
    theirs.add_tokens(list(ADDED))
    folder = tmp_path_factory.mktemp("inverted")
    theirs.save_pretrained(folder / "one")
    assert (folder / "one" / "tokenizer.json").is_file() and not (folder / "one" / "merges.txt").exists()
    decoder = {str(number): {"content": token, "special": False} for token, number in ADDED.items()}
    for name, file, content in (
        ("several", "added_tokens.json", ADDED),
        ("configured", "tokenizer_config.json", {"added_tokens_decoder": decoder}),
    ):
        (folder / name).mkdir()
        (folder / name / file).write_text(json.dumps(content))
        for part in ("vocab.json", "merges.txt"):
            shutil.copy(vocabulary.find_vocabulary() / part, folder / name)
    return folder, theirs


@pytest.mark.parametrize("form", ["one", "several", "configured"])
def test_a_folder_that_transformers_saved_is_read_with_its_added_tokens(inverted, form):
    folder, theirs = inverted
    ours = vocabulary.ClipTokenizer(vocabulary.find_vocabulary(folder / form))
    assert ours.get_added_vocab() == ADDED
    texts = [*TRICKY, "a <cat-toy> and a dog", "a photo of <cat-toy>", "<cat-toy>", "(<cat-toy>)", "a sks2 dog"]
    assert ours(texts)["input_ids"] == theirs(texts)["input_ids"]


@pytest.mark.parametrize("form", ["one", "several", "configured", "transformers"])
def test_an_added_token_is_a_word_of_its_own(inverted, form):
    folder, theirs = inverted
    tokens = theirs if form == "transformers" else vocabulary.ClipTokenizer(folder / form)
    tokenizer = PromptTokenizer(tokens, pad_token=49407)
    prompt = tokenizer.tokenize("a <cat-toy> dog, r2d2 and sks2 7")
    for subject, wanted in (("<cat-toy>", [2]), ("dog", [3]), ("r2d2", [5, 6, 7, 8]), ("sks2", [10]), ("7", [11])):
        assert [list(found) for found in find_subject(prompt, subject, tokenizer)] == [wanted], subject
    alone = tokenizer.tokenize("<cat-toy>,dog")
    assert [list(found) for found in find_subject(alone, "<cat-toy>", tokenizer)] == [[1]]
    assert [list(found) for found in find_subject(alone, "dog", tokenizer)] == [[3]]


def test_added_tokens_that_leave_a_gap_are_refused(inverted, tmp_path):
    folder = tmp_path / "gap"
    shutil.copytree(inverted[0] / "several", folder)
    (folder / "added_tokens.json").write_text(json.dumps({"<a>": 49410}))
    with pytest.raises(ValueError, match="gives the added token '<a>' the number 49410"):
        vocabulary.ClipTokenizer(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model": {"type": "Unigram"}}', '{"model": {"vocab": {}, "merges": []}}']
)
def test_a_tokenizer_of_another_kind_is_refused(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match="holds no vocabulary of CLIP that can be read"):
        vocabulary.ClipTokenizer(tmp_path)


def test_a_damaged_vocabulary_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no vocabulary of CLIP that can be read"):
        vocabulary.ClipTokenizer(make(tmp_path / "damaged"))
