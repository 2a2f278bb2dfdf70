"""The cache: what is kept is found again, and whatever happens to it costs time and nothing else."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import platformdirs
import pytest

import ddsp_la2a as la
from ddsp_la2a.data import cache, contents
from ddsp_la2a.data.contents import content_hash, known_hash
from ddsp_la2a.data.frame import data_hash


@pytest.fixture(autouse=True)
def _fresh_process():
    cache._warn_once.cache_clear()
    cache._forget_old.cache_clear()


@pytest.fixture
def file(tmp_path):
    """A file that was written a while ago."""
    path = tmp_path / "a.wav"
    path.write_bytes(b"some sound")
    grown_old(path)
    return path


def grown_old(path: Path, seconds: float = 60.0) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def forget_process(monkeypatch):
    """As if another process had hashed what was hashed so far."""
    monkeypatch.setattr(contents, "_seen", {})


def entries(folder: Path, kind: str = "*") -> list[Path]:
    return sorted(folder.glob(f"{kind}/*"))


# --- entries --------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_found_again(cache_folder):
    assert cache.recall("sounds", "a") is None
    assert not cache_folder.exists()
    cache.keep("sounds", "a", {"peak": 0.1, "lag": None, "score": [1, 2.5e-300]})
    cache.keep("sounds", "b\udcff/ü", "another")
    assert cache.recall("sounds", "a") == {"peak": 0.1, "lag": None, "score": [1, 2.5e-300]}
    assert cache.recall("sounds", "b\udcff/ü") == "another"
    assert cache.recall("others", "a") is None
    cache.keep("sounds", "a", 3)
    assert cache.recall("sounds", "a") == 3
    assert len(entries(cache_folder)) == 2


def test_it_lies_in_the_users_cache_unless_said_otherwise(monkeypatch, tmp_path):
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path))
    assert cache.folder() == tmp_path
    monkeypatch.setenv(cache.FOLDER_VARIABLE, "")
    assert cache.folder() == platformdirs.user_cache_path("ddsp_la2a", appauthor=False)
    monkeypatch.delenv(cache.FOLDER_VARIABLE)
    assert cache.folder() == platformdirs.user_cache_path("ddsp_la2a", appauthor=False)


@pytest.mark.parametrize(
    "content",
    [b"", b'{"key": "a", "val', b"\xff\xfe", b"[1, 2]", b"null", b'{"key": "a"}', b'{"value": 1}'],
    ids=["empty", "cut", "not text", "list", "null", "no value", "no key"],
)
def test_a_damaged_entry_is_left_aside_and_replaced(cache_folder, caplog, content):
    cache.keep("sounds", "a", 1)
    (entry,) = entries(cache_folder)
    entry.write_bytes(content)
    for _ in range(2):
        assert cache.recall("sounds", "a") is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{cache_folder}: damaged entries are left aside" in caplog.text
    cache.keep("sounds", "a", 2)
    assert cache.recall("sounds", "a") == 2


def test_an_entry_of_another_key_is_none(cache_folder):
    cache.keep("sounds", "a", 1)
    (entry,) = entries(cache_folder)
    entry.write_text(json.dumps({"key": "b", "value": 1}), encoding="utf-8")
    assert cache.recall("sounds", "a") is None


def test_where_nothing_can_be_written_the_log_says_so_once(cache_folder, caplog):
    cache_folder.write_text("a file in the way", encoding="utf-8")
    for key in "abc":
        cache.keep("sounds", key, 1)
        assert cache.recall("sounds", key) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{cache_folder}: nothing can be kept there" in caplog.text


def test_without_a_home_nothing_is_written_where_one_happens_to_be(monkeypatch, tmp_path, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(cache.FOLDER_VARIABLE, "~/.cache")
    cache.keep("sounds", "a", 1)
    assert list(tmp_path.iterdir()) == []
    assert "nothing can be kept" in caplog.text


def test_what_is_half_a_year_old_is_forgotten(cache_folder):
    cache.keep("sounds", "a", 1)
    cache.keep("sounds", "b", 1)
    old, _ = entries(cache_folder)
    grown_old(old, 181 * 86400)
    cache._forget_old.cache_clear()
    cache.keep("sounds", "c", 1)
    assert len(entries(cache_folder)) == 2
    assert not old.exists()


# --- hashes ---------------------------------------------------------------------------------------------------------


def no_reading(monkeypatch):
    """Whatever opens a file to hash it fails."""

    def unexpected():
        raise AssertionError("a file is read")

    monkeypatch.setattr(contents, "hashlib", SimpleNamespace(sha256=unexpected))


def test_a_hash_is_that_of_the_bytes_and_is_remembered(file, cache_folder, monkeypatch):
    expected = hashlib.sha256(b"some sound").hexdigest()
    assert known_hash(file) is None
    assert content_hash(file) == expected
    no_reading(monkeypatch)
    assert content_hash(file) == expected
    forget_process(monkeypatch)
    assert content_hash(file) == expected
    assert len(entries(cache_folder, "files")) == 1
    file.touch()
    with pytest.raises(AssertionError, match="a file is read"):
        content_hash(file)


def test_a_file_of_another_size_or_time_is_read_again(file, monkeypatch):
    content_hash(file)
    grown_old(file, 30.0)
    assert known_hash(file) is None
    assert content_hash(file) == hashlib.sha256(b"some sound").hexdigest()
    stat = file.stat()
    file.write_bytes(b"some sounds")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert known_hash(file) is None
    assert content_hash(file) == hashlib.sha256(b"some sounds").hexdigest()
    forget_process(monkeypatch)
    assert known_hash(file) == hashlib.sha256(b"some sounds").hexdigest()


def test_a_file_written_just_now_may_change_unseen(file):
    file.touch()
    content_hash(file)
    assert known_hash(file) is None


def test_a_file_that_changes_while_it_is_read_is_not_remembered(file):
    content_hash(file, lambda: grown_old(file, 50.0))
    assert known_hash(file) is None


def test_reading_ends_between_blocks(file):
    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        content_hash(file, stop)


@pytest.mark.parametrize("kept", [None, 3, [], [10], [10, 20, 30], {"sha256": "x"}])
def test_what_is_no_hash_is_none(file, monkeypatch, kept):
    monkeypatch.setattr(cache, "recall", lambda *_: kept)
    assert known_hash(file) is None


def test_the_data_hash_reads_files_once(recordings, tmp_path, monkeypatch):
    frame = la.index(shutil.copytree(recordings, tmp_path / "copy"))
    for path in (*frame["raw_audio_path"], *frame["processed_audio_path"]):
        grown_old(Path(path))
    expected = data_hash(frame)
    forget_process(monkeypatch)
    no_reading(monkeypatch)
    assert data_hash(frame) == expected


WRITER = """
import sys
from ddsp_la2a.data import cache
for number in range(300):
    cache.keep("sounds", str(number % 10), {"number": number % 10, "text": "x" * 5000})
    found = cache.recall("sounds", str(number % 10))
    assert found is not None and found["number"] == number % 10, found
"""


def test_two_processes_write_at_once(cache_folder, caplog):
    running = [
        subprocess.Popen([sys.executable, "-c", WRITER], stderr=subprocess.PIPE, env=dict(os.environ)) for _ in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, b"")
    with caplog.at_level(logging.DEBUG):
        assert [cache.recall("sounds", str(number))["number"] for number in range(10)] == list(range(10))
    assert caplog.text == ""
    assert len(entries(cache_folder)) == 10  # no temporary files left
