"""Gram matrices in files: read for the same facts alone, whole or not at all, bounded."""

import os

import pytest
import torch
from diff_quickfix.quickfix.files import gram_cache
from diff_quickfix.quickfix.files.gram_cache import CountedGram, GramCache
from safetensors.torch import save_file

FACTS = {"list": "one", "encoder": "abc"}


@pytest.fixture(autouse=True)
def nothing_in_memory():
    gram_cache.forget()
    yield
    gram_cache.forget()


def made(value=1.0, width=3):
    return CountedGram(torch.full((width, width), value, dtype=torch.float64), 7)


def test_what_is_written_is_read_for_the_same_facts_alone(tmp_path):
    cache = GramCache(tmp_path / "folder")
    assert cache.read(FACTS) is None
    cache.write(FACTS, made(1 / 3))
    gram_cache.forget()
    found = cache.read(dict(reversed(FACTS.items())))
    assert torch.equal(found.gram, made(1 / 3).gram) and found.captions == 7
    for changed in ({**FACTS, "encoder": "abd"}, {"list": "one"}, {**FACTS, "more": ""}):
        assert cache.read(changed) is None
    # In memory it is the very same, also where no folder is.
    assert cache.read(FACTS) is found and GramCache().read(FACTS) is found


def test_a_file_under_anothers_name_is_not_read(tmp_path):
    cache, other = GramCache(tmp_path), {**FACTS, "encoder": "another"}
    cache.write(FACTS, made())
    cache.write(other, made(2.0))
    (first,), gone = [tmp_path.glob(f"{gram_cache._key(FACTS)[:40]}*"), gram_cache._key(other)[:40]]
    os.replace(first, next(tmp_path.glob(f"{gone}*")))
    gram_cache.forget()
    assert cache.read(other) is None


@pytest.mark.parametrize("damage", ["cut", "empty", "plain", "nan"])
def test_a_damaged_file_counts_as_none_and_is_made_again(tmp_path, damage):
    cache = GramCache(tmp_path)
    cache.write(FACTS, made() if damage != "nan" else CountedGram(made().gram * torch.nan, 7))
    (path,) = tmp_path.iterdir()
    if damage == "plain":
        save_file({"gram": made().gram}, path)
    elif damage != "nan":
        path.write_bytes(path.read_bytes()[:-5] if damage == "cut" else b"")
    gram_cache.forget()
    assert cache.read(FACTS) is None
    cache.write(FACTS, made(5.0))
    gram_cache.forget()
    assert cache.read(FACTS).gram[0, 0] == 5.0 and len(list(tmp_path.iterdir())) == 1


def test_the_files_used_longest_ago_are_removed(tmp_path, monkeypatch):
    cache, every = GramCache(tmp_path), [{"list": str(number)} for number in range(gram_cache.MOST_FILES + 2)]
    (tmp_path / "a stranger's file").write_text("stays")
    for number, facts in enumerate(every):
        cache.write(facts, made())
        for path in tmp_path.glob(f"{gram_cache._key(facts)[:40]}*"):
            os.utime(path, (number, number))
        if number == 4:
            # Reading counts as using.
            gram_cache.forget()
            assert cache.read(every[0]) is not None
    gram_cache.forget()
    kept = [number for number, facts in enumerate(every) if cache.read(facts) is not None]
    assert kept == [0, *range(3, gram_cache.MOST_FILES + 2)] and len(kept) == gram_cache.MOST_FILES
    size = max(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    monkeypatch.setattr(gram_cache, "MOST_BYTES", 3 * size + size // 2)
    cache.write({"list": "last"}, made())
    gram_cache.forget()
    assert cache.read({"list": "last"}) is not None
    assert len(list(tmp_path.glob("*.safetensors"))) == 3 and (tmp_path / "a stranger's file").exists()


def test_two_processes_that_write_the_same_file_leave_a_whole_one(tmp_path, monkeypatch):
    """One writes all of its file while the other is in the middle of its own; a third reads in between."""
    cache, write = GramCache(tmp_path), gram_cache.write_tensors
    seen = []

    def interrupted(path, tensors, label):
        monkeypatch.setattr(gram_cache, "write_tensors", write)
        path.write_bytes(b"half of a file")
        cache.write(FACTS, made(2.0))
        gram_cache.forget()
        seen.append(cache.read(FACTS).gram[0, 0])
        write(path, tensors, label)

    monkeypatch.setattr(gram_cache, "write_tensors", interrupted)
    cache.write(FACTS, made(3.0))
    gram_cache.forget()
    assert seen == [2.0] and cache.read(FACTS).gram[0, 0] == 3.0
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_another_process_removes_counts_as_none(tmp_path, monkeypatch):
    cache = GramCache(tmp_path)
    cache.write(FACTS, made())
    gram_cache.forget()
    opened = gram_cache.safe_open

    def removed_first(path, framework):
        path.unlink()
        return opened(path, framework)

    monkeypatch.setattr(gram_cache, "safe_open", removed_first)
    assert cache.read(FACTS) is None
    # And where it goes while the folder is made smaller.
    stat, gone = gram_cache.Path.stat, tmp_path / "other.gram.safetensors"
    gone.write_text("")

    def stat_of_what_goes(path, **options):
        if path == gone:
            gone.unlink(missing_ok=True)
        return stat(path, **options)

    monkeypatch.setattr(gram_cache.Path, "stat", stat_of_what_goes)
    cache.write(FACTS, made(4.0))
    monkeypatch.undo()
    gram_cache.forget()
    assert cache.read(FACTS).gram[0, 0] == 4.0


def test_what_is_cut_off_in_the_middle_of_writing_leaves_nothing(tmp_path, monkeypatch):
    def cut(path, tensors, label):
        path.write_bytes(b"half of a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(gram_cache, "write_tensors", cut)
    with pytest.raises(KeyboardInterrupt):
        GramCache(tmp_path).write(FACTS, made())
    gram_cache.forget()
    assert not list(tmp_path.iterdir()) and GramCache(tmp_path).read(FACTS) is None


def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache = GramCache(blocked)
    cache.write(FACTS, made())
    assert cache.read(FACTS).captions == 7
    gram_cache.forget()
    assert cache.read(FACTS) is None and blocked.read_text() == ""
