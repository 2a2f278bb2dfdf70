"""Writing of files: on the disk before it takes the old one's place; a disk that refuses is named and loses nothing."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

import click
import pytest

from ddsp_la2a.console import run_command
from ddsp_la2a.files import UnwritableError, replacing

OLD, NEW = "old", "new"


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a.txt").write_text(OLD, encoding="utf-8")
    return tmp_path / "a.txt"


def write(path, text=NEW, **more):
    with replacing(path, **more) as temporary:
        temporary.write_text(text, encoding="utf-8")


def refuse(monkeypatch, where, number):
    """The system refuses a step of the writing."""

    def refused(*arguments, **_):
        names = [str(argument) for argument in arguments if isinstance(argument, (str, Path))]
        raise OSError(number, os.strerror(number), *names[:1])

    monkeypatch.setattr(where, refused)


@pytest.mark.skipif(sys.platform == "win32", reason="no folder can be opened there")
def test_the_file_is_on_the_disk_before_it_moves_and_its_name_after(path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(number):
        steps.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file")
        fsync(number)

    def noted_replace(source, target):
        steps.append(f"{source.suffix} to {target.name}")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write(path)
    assert steps == ["file", ".txt to a.txt", "folder"]


def test_the_present_file_can_be_kept(path):
    previous = path.with_name("b.txt")
    write(path, previous=previous)
    assert (path.read_text(encoding="utf-8"), previous.read_text(encoding="utf-8")) == (NEW, OLD)
    fresh = path.with_name("c.txt")
    write(fresh, previous=previous)
    assert previous.read_text(encoding="utf-8") == OLD
    assert sorted(file.name for file in path.parent.iterdir()) == ["a.txt", "b.txt", "c.txt"]


@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.write_text", "pathlib.Path.replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_disk_that_refuses_is_named_and_the_old_file_stays(path, monkeypatch, where, number):
    with monkeypatch.context() as patched:
        refuse(patched, where, number)
        with pytest.raises(UnwritableError, match=r"a\.txt: expected to write it, got '.*'; make room") as raised:
            write(path)
    assert raised.value.errno == number
    assert os.strerror(number) in str(raised.value)
    assert path.read_text(encoding="utf-8") == OLD
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no such device here")
def test_a_full_disk_of_the_systems_own(path):
    """A device on which every write fails as on a full disk."""

    def write_there():
        with replacing(path) as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text(NEW, encoding="utf-8")

    with pytest.raises(UnwritableError, match="No space left"):
        write_there()
    assert path.read_text(encoding="utf-8") == OLD
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_synced_is_no_mistake(path, monkeypatch):
    refuse(monkeypatch, "os.open", errno.EACCES)
    write(path)
    assert path.read_text(encoding="utf-8") == NEW


def test_errors_of_other_files_stay_what_they_are(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), replacing(path):
        (tmp_path / "nowhere").read_text(encoding="utf-8")
    with pytest.raises(OSError, match=r"^a library's own$"), replacing(path):
        raise OSError("a library's own")
    inner = tmp_path / "inner.txt"
    with pytest.raises(UnwritableError, match=r"inner\.txt: expected"), replacing(path), replacing(inner):
        raise OSError(errno.ENOSPC, "full")
    assert path.read_text(encoding="utf-8") == OLD


def test_a_command_says_it_in_a_line(path, monkeypatch, capsys):
    @click.command()
    def command():
        write(path)

    monkeypatch.setattr("sys.argv", ["command", "--"])
    monkeypatch.setattr("warnings.showwarning", None)  # run_command puts its own there
    refuse(monkeypatch, "os.fsync", errno.ENOSPC)
    with pytest.raises(SystemExit) as ended:
        run_command(command, "command")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"command: error: {path}: expected to write it, got 'No space left on device'; make room")
