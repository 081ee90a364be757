"""Files appear whole or not at all; names stay in their folder."""

import os
import stat

import pytest
from diff_quickfix.output.files import inside, whole_file
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import ones


def write(path, text, **options):
    with whole_file(path, **options) as part:
        part.write_text(text)


def test_a_file_appears_whole(tmp_path):
    write(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "new"
    write(tmp_path / "a", "newer", overwrite=True)
    assert (tmp_path / "a").read_text() == "newer"


def test_after_an_error_nothing_is_left_and_nothing_is_lost(tmp_path):
    write(tmp_path / "a", "old")
    for name in ("a", "b"):
        with pytest.raises(RuntimeError), whole_file(tmp_path / name, overwrite=True) as part:
            part.write_text("half")
            raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"
    with pytest.raises(OSError):
        write(tmp_path / "missing" / "a", "new")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_exists_or_comes_meanwhile_is_not_replaced(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
        write(tmp_path / "a", "new")
        assert (tmp_path / "a").read_text() == "new"
        return
    write(tmp_path / "a", "old")
    with pytest.raises(FileExistsError, match="a exists already"):
        write(tmp_path / "a", "new")
    with pytest.raises(FileExistsError, match="b exists already"), whole_file(tmp_path / "b") as part:
        part.write_text("late")
        (tmp_path / "b").write_text("first")
    assert (tmp_path / "b").read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_others_may_read_what_they_may_read_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with whole_file(tmp_path / "a") as part:
        save_file({"a": ones(1)}, part)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "a")}
    assert len(modes) == 1


@given(st.text("a./\\~ \0\n:", max_size=12))
def test_no_name_leads_out_of_the_folder(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp() / "inside"
    try:
        path = inside(folder, name, ".x")
    except ValueError as error:
        assert "plain file name" in str(error)
    else:
        assert path.is_relative_to(folder.resolve()) and path != folder.resolve() and path.name.endswith(".x")


def test_plain_names_and_subfolders_are_taken(tmp_path):
    assert inside(tmp_path, "a", ".x") == inside(tmp_path, " a.x ", ".x") == (tmp_path / "a.x").resolve()
    assert inside(tmp_path, "b/a", ".x") == (tmp_path / "b" / "a.x").resolve()
    for name in ("", " ", ".x", "a/", "../a", "/a", "b/../../a"):
        with pytest.raises(ValueError, match="plain file name"):
            inside(tmp_path, name, ".x")
