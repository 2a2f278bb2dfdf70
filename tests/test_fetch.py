"""The data set from a server on the loopback address to a frame of pairs, and everything that can come between."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import sys
import tarfile
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from loopback import cut, hang, serving, status

import ddsp_la2a as la
from ddsp_la2a import cli, cli_fetch
from ddsp_la2a.fetching import fetch as module
from ddsp_la2a.fetching.fetch import fetch, plan_fetch

NAME = "SignalTrain_LA2A_Dataset_1.1.tgz"
QUICK = {"pauses_s": (0.0, 0.0), "timeout_s": 5.0}


class Disk(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture(scope="session")
def archive(recordings) -> bytes:
    """The tests' recordings, packed as the data set is: all in one folder."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        tar.add(recordings, "SignalTrain_LA2A_Dataset_1.1")
        junk = tarfile.TarInfo("SignalTrain_LA2A_Dataset_1.1/Train/._input_101_.wav")
        junk.size = 5
        tar.addfile(junk, io.BytesIO(b"macOS"))
    return packed.getvalue()


def record_of(archive: bytes, **more: object) -> bytes:
    entry = {"key": NAME, "size": len(archive), "checksum": f"md5:{hashlib.md5(archive).hexdigest()}"} | more
    other = {"key": "readme.txt", "size": 3, "checksum": f"md5:{32 * '0'}"}
    return json.dumps({"id": 3824876, "files": [other, entry]}).encode()


@pytest.fixture
def server(monkeypatch, archive):
    """In place of the data set's host."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module, "_RESERVE_BYTES", 1000)
    with serving() as server:
        server.files = {NAME: archive, "record": record_of(archive)}
        monkeypatch.setattr(module, "URL", server.url(NAME))
        monkeypatch.setattr(cli_fetch, "URL", server.url(NAME))
        monkeypatch.setattr(module, "RECORD_URL", server.url("record"))
        yield server


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "disk" / "set"


def beside(folder: Path) -> set[str]:
    return {path.name for path in folder.parent.iterdir()} if folder.parent.exists() else set()


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_download_check_unpack(server, folder, recordings, archive):
    plan = plan_fetch(folder)
    assert not folder.parent.exists()
    assert (plan.size, plan.kept) == (len(archive), 0)
    assert plan.checksum_source == server.url("record")
    steps = []
    fetched = fetch(plan, progress=lambda *step: steps.append(step), **QUICK)
    described = json.loads((folder / "fetched.json").read_text(encoding="utf-8"))
    (folder / "fetched.json").unlink()
    assert tree(folder) == tree(recordings)
    assert beside(folder) == {"set"}
    assert fetched.pairs == len(la.index(folder)) == 5
    assert fetched.sha256.digits == hashlib.sha256(archive).hexdigest()
    assert list(dict.fromkeys(step for step, _, _ in steps)) == ["download", "checksum", "unpack"]
    for name in ("download", "checksum", "unpack"):
        assert [step[1:] for step in steps if step[0] == name][-1] == (len(archive), len(archive))
    assert described == {
        "url": server.url(NAME),
        "bytes": len(archive),
        "checksums": [str(plan.checksum), str(fetched.sha256)],
        "compared_with": f"md5:{hashlib.md5(archive).hexdigest()}",
        "said_by": server.url("record"),
    }


def test_goes_on_in_the_next_run(server, folder, recordings):
    plan = plan_fetch(folder)
    server.faults = [cut(200_000)]
    with pytest.raises(ConnectionError, match="run the command again to go on"):
        fetch(plan, pauses_s=())
    assert beside(folder) == {f"{NAME}.part", f"{NAME}.part.json"}
    again = plan_fetch(folder)
    assert again.kept == 200_000
    assert again.needed == plan.needed - 200_000
    server.asked.clear()
    fetch(again, **QUICK)
    assert server.ranges_asked == ["bytes=200000-"]
    assert tree(folder).items() >= tree(recordings).items()
    assert beside(folder) == {"set"}


@pytest.mark.parametrize("step", ["download", "checksum", "unpack"])
def test_interrupted_anywhere_it_goes_on(server, folder, recordings, step):
    def interrupt(now, done, total):
        if now == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(plan_fetch(folder), progress=interrupt, **QUICK)
    assert beside(folder) == {f"{NAME}.part", f"{NAME}.part.json"}
    fetch(plan_fetch(folder), **QUICK)
    assert tree(folder).items() >= tree(recordings).items()


def test_what_a_killed_run_left_is_taken_away(server, folder, monkeypatch):
    left = folder.parent / ".set.unpacking"
    left.mkdir(parents=True)
    (left / "big").write_bytes(bytes(1000))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(0, 0, 7))
    with pytest.raises(ValueError, match="GB free"):
        plan_fetch(folder)
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetch(plan_fetch(folder, url=server.url(NAME)), **QUICK)
    assert beside(folder) == {"set"}


def test_a_wrong_checksum(server, folder):
    wrong = "sha256:" + 64 * "0"
    plan = plan_fetch(folder, checksum=wrong)
    right = hashlib.sha256(server.files[NAME]).hexdigest()
    with pytest.raises(ValueError, match=rf"expected {wrong} \(says you\), got sha256:{right}; deleted; run again"):
        fetch(plan, **QUICK)
    assert beside(folder) == set()


def test_bytes_changed_on_the_way(server, folder, archive):
    """Same length, same ETag, other bytes."""
    server.files[NAME] = archive[:-5000] + bytes(100) + archive[-4900:]
    with pytest.raises(ValueError, match=r"expected md5:.*got md5:.*begin anew"):
        fetch(plan_fetch(folder), **QUICK)
    server.files[NAME] = archive
    assert fetch(plan_fetch(folder), **QUICK).pairs == 5


@pytest.mark.parametrize("header", ["sha-256", "none"])
def test_other_addresses_have_no_record(server, folder, archive, header):
    server.files["mirror/x.tgz"] = archive
    if header != "none":
        digest = hashlib.sha256(archive)
        server.headers["Content-MD5"] = hashlib.md5(archive).hexdigest()
        server.headers["Digest"] = f"sha-256={base64.b64encode(digest.digest()).decode()}"
    plan = plan_fetch(folder, url=server.url("mirror/x.tgz"))
    assert [request["path"] for request in server.asked] == ["/mirror/x.tgz"]
    assert plan.archive.name == "x.tgz.part"
    assert (plan.checksum is None) == (header == "none")
    assert fetch(plan, **QUICK).sha256.digits == hashlib.sha256(archive).hexdigest()
    described = json.loads((folder / "fetched.json").read_text(encoding="utf-8"))
    assert described["compared_with"] == (None if header == "none" else f"sha256:{digest.hexdigest()}")
    assert described["said_by"] == ("nobody" if header == "none" else "the server, with the file")


RECORDS = {
    "newer": lambda archive: json.dumps(
        {"files": [{"filename": NAME, "size": len(archive), "checksum": hashlib.md5(archive).hexdigest()}]}
    ).encode(),
    "whole": record_of,
}


@pytest.mark.parametrize("kind", RECORDS)
def test_records(server, folder, archive, kind):
    server.files["record"] = RECORDS[kind](archive)
    assert str(plan_fetch(folder).checksum) == f"md5:{hashlib.md5(archive).hexdigest()}"


NO_RECORDS = [b"", b"<html>", b"[]", b"{}", b"\xff", b"[" * 100_000, bytes(5_000_000)]
NO_FILES = [b'{"files": %s}' % files for files in (b"null", b"{}", b"[]", b"[1]")]
NO_ENTRIES = [
    record_of(b"", **wrong) for wrong in ({"checksum": None}, {"checksum": "md5:x"}, {"size": "x"}, {"size": None})
]


@pytest.mark.parametrize("record", NO_RECORDS + NO_FILES + NO_ENTRIES, ids=lambda record: ascii(record[:12]))
def test_a_record_that_is_no_use(server, folder, record, caplog):
    server.files["record"] = record
    plan = plan_fetch(folder)
    assert plan.checksum is None
    assert "no checksum from the data set's record: " in caplog.text


@pytest.mark.parametrize("fault", [status(404), status(503), hang, cut(20)])
def test_a_record_that_is_not_to_be_had(server, folder, fault, caplog):
    server.faults = [fault]
    assert plan_fetch(folder, timeout_s=0.3).checksum is None
    assert "no checksum from the data set's record: " in caplog.text
    assert fetch(plan_fetch(folder), **QUICK).pairs == 5


def test_another_length_than_recorded(server, folder, archive):
    server.files[NAME] = b"<html>back soon</html>"
    with pytest.raises(
        ValueError, match=rf"expected {len(archive)} bytes as in http.*/record, got 22; try again later"
    ):
        plan_fetch(folder)
    assert beside(folder) == set()


def test_too_little_room(server, folder, archive, monkeypatch):
    needed = plan_fetch(folder).needed
    assert needed == pytest.approx(2.25 * len(archive) + 1000, abs=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(0, 0, needed))
    plan_fetch(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(0, 0, needed - 1))
    with pytest.raises(ValueError, match=r"expected 0\.0 GB free for archive and recordings.*another disk"):
        plan_fetch(folder)
    assert beside(folder) == set()


def test_a_bomb_stops_at_the_room_there_is(server, folder, archive, monkeypatch):
    plan = plan_fetch(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(0, 0, 51_000))
    with pytest.raises(ValueError, match=r"expected at most 50000 bytes unpacked.*the archive is kept"):
        fetch(plan, **QUICK)
    assert beside(folder) == {f"{NAME}.part", f"{NAME}.part.json"}
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.asked.clear()
    again = plan_fetch(folder, url=server.url(NAME))
    assert again.kept == again.size
    assert fetch(again, **QUICK).pairs == 5


def test_a_hostile_archive(server, folder, tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in ("Train/fine.wav", "../../outside"):
            tar.addfile(tarfile.TarInfo(name))
    server.files["x.tgz"] = packed.getvalue()
    with pytest.raises(ValueError, match=r"x\.tgz\.part: archive: expected relative names.*the archive is kept"):
        fetch(plan_fetch(folder, url=server.url("x.tgz")), **QUICK)
    assert beside(folder) == {"x.tgz.part", "x.tgz.part.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"disk"}


def test_another_archive(server, folder):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("code/setup.py"))
    server.files["x.tgz"] = packed.getvalue()
    with pytest.raises(ValueError, match="expected Train, Val and Test in it"):
        fetch(plan_fetch(folder, url=server.url("x.tgz")), **QUICK)
    assert not folder.exists()


def test_a_damaged_archive_is_fetched_anew_unless_its_checksum_is_right(server, folder, archive):
    damaged = archive[:-5000] + bytes(100) + archive[-4900:]
    server.files["x.tgz"] = damaged
    with pytest.raises(ValueError, match=r"damaged.*deleted; run again to begin anew"):
        fetch(plan_fetch(folder, url=server.url("x.tgz")), **QUICK)
    assert beside(folder) == set()
    checksum = f"sha1:{hashlib.sha1(damaged).hexdigest()}"
    with pytest.raises(ValueError, match=r"damaged.*what the checksum promises"):
        fetch(plan_fetch(folder, url=server.url("x.tgz"), checksum=checksum), **QUICK)
    assert beside(folder) == {"x.tgz.part", "x.tgz.part.json"}


def test_an_archive_of_ones_own(server, folder, archive):
    folder.parent.mkdir()
    own = folder.with_name(NAME)
    own.write_bytes(archive)
    plan = plan_fetch(folder)
    assert plan.remote is None
    assert fetch(plan, **QUICK).pairs == 5
    assert own.read_bytes() == archive
    assert [request["path"] for request in server.asked] == ["/record"]


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b[:-5000] + bytes(100) + b[-4900:]])
def test_a_wrong_archive_of_ones_own_is_left_alone(server, folder, archive, change):
    folder.parent.mkdir()
    own = folder.with_name(NAME)
    own.write_bytes(change(archive))
    with pytest.raises(ValueError, match=rf"{NAME}: expected .*, got .*; move it away"):
        fetch(plan_fetch(folder), **QUICK)
    assert own.read_bytes() == change(archive)
    assert beside(folder) == {NAME}


def test_two_at_once(server, folder):
    plan = plan_fetch(folder)

    def another(step, done, total):
        if step == "checksum":
            with pytest.raises(ValueError, match="another process at it"):
                fetch(plan, **QUICK)

    if sys.platform == "win32":
        pytest.skip("no such locks")
    assert fetch(plan, progress=another, **QUICK).pairs == 5


def test_folders_that_cannot_be(server, folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="file: expected the name of a folder to be made"):
        plan_fetch(tmp_path / "file")
    folder.mkdir(parents=True)
    fetch(plan_fetch(folder), **QUICK)
    with pytest.raises(ValueError, match="set: expected a new or an empty folder"):
        plan_fetch(folder)
    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr("os.path.ismount", lambda _: True)
    with pytest.raises(ValueError, match="mounted: expected the name of a folder to be made"):
        plan_fetch(tmp_path / "mounted")


NAMES = {"a.tgz": "a.tgz", "x/b-1.tgz?download=1": "b-1.tgz", "%2e%2e%2fx.tgz": "x.tgz"}
NO_NAMES = ["", "x/", "..", ".hidden", "a%00b", "a%5cb.tgz", "a%1bb", "-rf", 101 * "a"]


@pytest.mark.parametrize(("path", "name"), [*NAMES.items(), *((path, "archive.tgz") for path in NO_NAMES)])
def test_names_of_archives(path, name):
    assert module._name(f"https://host/{path}") == name


class Ran(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """``ddsp-la2a fetch …`` in this process."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["ddsp-la2a", "fetch", *map(str, arguments)])
        code = 0
        with warnings.catch_warnings():
            try:
                cli.main()
            except SystemExit as end:
                code = int(end.code or 0)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


def test_command(server, run, archive):
    ran = run("set", "--yes")
    assert ran.status == 0, ran.err
    assert f"to be compared with md5:{hashlib.md5(archive).hexdigest()}, says {server.url('record')}" in ran.err
    assert f"sha256:{hashlib.sha256(archive).hexdigest()}" in ran.err
    assert "set: 5 pairs; next: ddsp-la2a check set" in ran.err
    assert "CC-BY-4.0" in ran.err
    assert len(la.index("set")) == 5
    server.asked.clear()
    again = run("set", "--yes")
    assert (again.status, server.asked) == (0, [])
    assert "set: 5 pairs are there already, nothing to fetch" in again.err


def test_command_asks(server, run, monkeypatch):
    refused = run("set")
    assert refused.status == 2
    assert refused.err.splitlines()[-1].startswith("ddsp-la2a: error: yes: expected --yes where nobody can be asked")
    monkeypatch.setattr(sys, "stdin", type("Terminal", (io.StringIO,), {"isatty": lambda _: True})("n\n"))
    declined = run("set")
    assert declined.status == 130
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--url", "file:///etc/passwd"], "url: expected http:// or https://"),
        (["--checksum", "md5:1"], "checksum: expected ALGORITHM:HEX"),
        (["--url", "http://127.0.0.1:1/a.tgz"], "http://127.0.0.1:1/a.tgz: expected an answer, got: "),
    ],
)
def test_command_says_what_is_wrong(server, run, arguments, error):
    ran = run("set", "--yes", *arguments)
    assert ran.status == 2
    assert ran.err.splitlines()[-1].startswith(f"ddsp-la2a: error: {error}")
    assert "Traceback" not in ran.err
    assert list(Path.cwd().iterdir()) == []


def test_command_goes_on(server, run, monkeypatch):
    monkeypatch.setattr(cli_fetch, "fetch_planned", partial(fetch, pauses_s=()))
    server.faults = [None, None, cut(150_000)]
    ran = run("set", "--yes")
    assert ran.status == 2
    assert "run the command again to go on" in ran.err
    again = run("set", "--yes")
    assert again.status == 0, again.err
    assert "0.0 GB of it here already" in again.err
