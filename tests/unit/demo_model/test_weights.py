"""Shapes' weights on disk: in files that ComfyUI's registry scans, and complete or refused."""

import pytest
import torch
from diff_quickfix.demo_model import weights
from diff_quickfix.demo_model.architecture import WEIGHTS
from diff_quickfix.demo_model.training import export
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

LIMIT = 100


@given(sizes=st.lists(st.integers(0, 70), min_size=1, max_size=12), before=st.lists(st.integers(0, 70), max_size=12))
def test_a_part_is_read_as_it_was_written_from_small_files(tmp_path_factory, sizes, before):
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "FILE_BYTES", LIMIT)
        export.save_part("unet-x", {"other": torch.ones(2)}, folder)
        for lengths in (before, sizes):
            state = {f"{i:02}": torch.randn(length).half().float() for i, length in enumerate(lengths)}
            if state:
                export.save_part("unet", state, folder, shapes="{}")
    read = weights.load_part("unet", folder)
    assert read.keys() == state.keys() and all(torch.equal(read[key], state[key]) for key in state)
    for path in folder.glob("unet*"):
        content = load_file(path)
        assert len(content) == 1 or sum(value.nbytes for value in content.values()) <= LIMIT
    assert weights.load_part("unet-x", folder).keys() == {"other"}


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_missing_file_of_a_part_is_named(tmp_path, monkeypatch, lost):
    monkeypatch.setattr(export, "FILE_BYTES", LIMIT)
    export.save_part("unet", {name: torch.randn(LIMIT // 2) for name in "abc"}, tmp_path)
    name = f"unet-{lost:05}-of-00003.safetensors"
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"missing: {name} in .*Install the pack again"):
        weights.load_part("unet", tmp_path)


def test_nothing_at_all_is_missing_by_its_plain_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing: unet\.safetensors in"):
        weights.load_part("unet", tmp_path)


def test_weights_that_the_upload_leaves_out_are_looked_for_in_the_repository():
    with pytest.raises(FileNotFoundError, match=r"demo_model/weights/gallery/nowhere from https://github\.com/\S+, or"):
        weights.load_part("unet", WEIGHTS / "gallery" / "nowhere")
