"""Edit files that others wrote, or that are damaged: read, or refused in words."""

import dataclasses
import json

import pytest
import torch
from diff_quickfix.output.json_records import RecordError, from_json, parse
from diff_quickfix.quickfix import (
    PAPER,
    EditFileError,
    EditReport,
    EditSettings,
    StorageRounding,
    WeightEdit,
    load_edit,
    save_edit,
    to_json,
)
from edit_reports import REPORT, make
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file


def parts(edit=None):
    """The tensors and the label of a sound file."""
    edit = edit or make()
    label = {
        "schema": 1,
        "version": "0.1.0",
        "naming": "kohya",
        "weight_name": edit.weight_name,
        "encoder": edit.encoder,
        "base": edit.base,
        "concepts": to_json(edit.concepts),
        "settings": to_json(edit.settings),
        "report": to_json(edit.report),
    }
    return edit.lora(), label


def write(path, tensors, label):
    text = label if isinstance(label, str) else json.dumps(label)
    save_file(tensors, path, {"diff_quickfix": text})
    return path


def test_a_file_written_by_hand_is_read(tmp_path):
    assert torch.equal(load_edit(write(tmp_path / "a", *parts())).up, make().up)


def test_alpha_scales_the_edit(tmp_path):
    """kohya's scripts and others write an alpha of their own."""
    tensors, label = parts()
    (alpha,) = (name for name in tensors if name.endswith("alpha"))
    tensors[alpha] = torch.tensor(1.5)
    torch.testing.assert_close(load_edit(write(tmp_path / "a", tensors, label)).delta(), make().delta() / 2)


def without(label, *keys):
    return {key: value for key, value in label.items() if key not in keys}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t, m: (t, "{"), "no JSON"),
        (lambda t, m: (t, "[" * 100_000), "no JSON"),
        (lambda t, m: (t, "[]"), "no format number"),
        (lambda t, m: (t, {**m, "schema": True}), "no format number"),
        (lambda t, m: (t, {"schema": 4}), "newer version"),
        (lambda t, m: (t, without(m, "concepts")), "lacks the field concepts"),
        (lambda t, m: (t, {**m, "surprise": 1}), "unknown field 'surprise'"),
        (lambda t, m: (t, {**m, "concepts": []}), "names no concept"),
        (lambda t, m: (t, {**m, "concepts": "van gogh"}), "expected a list"),
        (lambda t, m: (t, {**m, "concepts": [{"source": "a", "target": 3}]}), "target is 3; expected str"),
        (lambda t, m: (t, {**m, "concepts": [{"source": "a", "target": "a"}]}), "are both"),
        (lambda t, m: (t, {**m, "concepts": [{"source": "\ud800", "target": "a"}]}), "Unicode"),
        (lambda t, m: (t, {**m, "settings": {**m["settings"], "lam": 0}}), "lambda is 0"),
        (lambda t, m: (t, json.dumps(m).replace('"lam": 0.1', '"lam": 1e999')), "expected float"),
        (lambda t, m: (t, json.dumps(m).replace('"lam": 0.1', '"lam": NaN')), "NaN"),
        (lambda t, m: (t, {**m, "settings": {**m["settings"], "layer": 1}}), "layer 1 was not edited"),
        (lambda t, m: (t, {**m, "weight_name": "encoder.layers.0.mlp.fc1.weight"}), "layer 0 was not edited"),
        (lambda t, m: (t, {**m, "encoder": "t5"}), "unknown text encoder"),
        (lambda t, m: (t, {**m, "naming": "comfyui"}), "it holds the tensors"),
        (lambda t, m: ({**t, "more": torch.ones(1)}, m), "it holds the tensors"),
        (lambda t, m: ({n: v.double() for n, v in t.items()}, m), "of type F64"),
        (lambda t, m: ({n: v.flatten() for n, v in t.items()}, m), "shapes"),
        (lambda t, m: ({n: v * torch.inf for n, v in t.items()}, m), "NaN or infinity"),
    ],
)
def test_damage_is_refused_in_words(tmp_path, damage, message):
    path = write(tmp_path / "a.safetensors", *damage(*parts()))
    with pytest.raises(EditFileError, match=message) as caught:
        load_edit(path)
    assert "a.safetensors" in str(caught.value)


def test_foreign_files_are_refused(tmp_path):
    with pytest.raises(EditFileError, match="There is no file"):
        load_edit(tmp_path / "missing")
    save_file(make().lora(), tmp_path / "lora")
    with pytest.raises(EditFileError, match="not an edit saved by this pack"):
        load_edit(tmp_path / "lora")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(EditFileError, match="no safetensors file"):
        load_edit(tmp_path / "text")


@given(data=st.data())
def test_no_bytes_crash_the_reader(tmp_path_factory, data):
    """Arbitrary bytes, cut files and changed bytes give an edit or EditFileError, never anything else."""
    folder = tmp_path_factory.getbasetemp()
    sound = folder / "sound.safetensors"
    if not sound.exists():
        save_edit(make(), sound)
    content = bytearray(sound.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    elif data.draw(st.booleans()):
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    else:
        content = data.draw(st.binary(max_size=200))
    (folder / "damaged").write_bytes(content)
    try:
        edit = load_edit(folder / "damaged")
    except EditFileError as error:
        assert "damaged" in str(error)
    else:
        assert edit.up.shape[1] == edit.down.shape[0] and torch.isfinite(edit.delta()).all()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
def test_no_label_crashes_the_reader(tmp_path_factory, data):
    """Somewhere in the label another JSON value stands: an edit or EditFileError."""
    tensors, label = parts()
    at, keys = label, data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=4))
    for key in keys:
        inner = sorted(at) if isinstance(at, dict) else range(len(at))
        if not inner:
            break
        name = inner[key % len(inner)]
        if not isinstance(at[name], dict | list) or key == keys[-1]:
            at[name] = data.draw(JSON)
            break
        at = at[name]
    path = write(tmp_path_factory.getbasetemp() / "label", tensors, label)
    try:
        assert isinstance(load_edit(path), WeightEdit)
    except EditFileError as error:
        assert str(error).startswith("label")


settings = st.builds(
    EditSettings,
    st.integers(0, 40),
    st.floats(1e-6, 1e6),
    preserve=st.lists(st.text(), max_size=3).map(tuple),
    preserve_weight=st.floats(0, 1e6),
    published_bias=st.booleans(),
)


@given(settings)
def test_settings_survive_json(given_settings):
    try:
        text = json.dumps(to_json(given_settings))
        assert from_json(EditSettings, parse(text), "settings") == given_settings
    except RecordError as error:
        assert "Unicode" in str(error)
        assert any(any("\ud800" <= c <= "\udfff" for c in prompt) for prompt in given_settings.preserve)


def test_records_keep_named_tuples_and_none():
    report = dataclasses.replace(REPORT, storage=StorageRounding(0.1, 0.2))
    assert from_json(EditReport, parse(json.dumps(to_json(report))), "report") == report
    assert from_json(EditReport, to_json(REPORT), "report").storage is None
    assert from_json(EditSettings, {}, "settings") == PAPER
