"""Archives that nobody vouches for: what is sound arrives, and of what isn't nothing lies anywhere else."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import tracemalloc

import pytest

from ddsp_la2a.fetching.unpack import DamagedError, unpack

ROOM = 1 << 30


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: object):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def packed(*members, form: int = tarfile.PAX_FORMAT, encoding: str = "utf-8") -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=form, encoding=encoding) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), 1)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "outer" / "folder"
    path.mkdir(parents=True)
    return path


def run(archive: bytes, folder, most_bytes: int = ROOM, progress=None) -> int:
    return unpack(io.BytesIO(archive), folder, most_bytes=most_bytes, progress=progress)


def files(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_and_folders(folder, form):
    big = os.urandom(3_000_000)
    long = "Train/" + 60 * "é" + "x" * 60 if form != tarfile.USTAR_FORMAT else "Train/é"
    archive = packed(
        member(".", kind=tarfile.DIRTYPE),
        member("./Train", kind=tarfile.DIRTYPE),
        member("./Train/a.wav", big),
        member("Train/", kind=tarfile.DIRTYPE),
        member(long, b"1"),
        member("Val/deep/er/b.wav", 512 * b"2"),
        member("empty"),
        member("._a", 700_000 * b"x"),
        member("Train/._a.wav", b"x"),
        form=form,
    )
    seen = []
    written = run(archive, folder, progress=lambda *done: seen.append(done))
    assert files(folder) == {"Train/a.wav": big, long: b"1", "Val/deep/er/b.wav": 512 * b"2", "empty": b""}
    assert written == len(big) + 1 + 512 + 700_001
    assert seen[-1] == (len(archive), len(archive))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
def test_plain_modes(folder):
    before = os.umask(0o022)
    try:
        run(packed(member("d", kind=tarfile.DIRTYPE, mode=0o7777), member("d/f", b"x", mode=0o7777, uid=0)), folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "d").stat().st_mode) == 0o755
    assert stat.S_IMODE((folder / "d" / "f").stat().st_mode) == 0o644
    assert (folder / "d" / "f").stat().st_uid == os.getuid()


UPWARDS = ["../x", "a/../../x", "a/..", "..", "/x", "//x", "C:/x", "C:x", "a\\..\\x", "..\\x", "a/" * 40 + "../x"]
ODD = ["a//x", "a/./x", "...", ". ", "a /x", "a./x", "con:", "a?", "a\nb", "a\x1b[2J", "\x7f", "a\u202eb", "a\udcff"]
LONG = ["x" * 256, "a/" * 200 + "x", "a/" * 4000 + "x"]


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE])
@pytest.mark.parametrize("name", UPWARDS + ODD + LONG, ids=lambda name: ascii(name[:20]))
def test_names_that_lead_elsewhere(folder, name, kind):
    archive = packed(member(name, b"", kind))
    with pytest.raises(ValueError, match=r"archive: expected (relative names|names in UTF-8).*not unpacked"):
        run(archive, folder)
    assert list(folder.rglob("*")) == []
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["", ".", "./"])
def test_a_file_without_a_name(folder, name):
    with pytest.raises(ValueError, match="archive: expected"):
        run(packed(member(name, b"x")), folder)
    assert list(folder.rglob("*")) == []


KINDS = {
    "symlink": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "pipe": tarfile.FIFOTYPE,
    "character": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "contiguous": tarfile.CONTTYPE,
    "sparse": tarfile.GNUTYPE_SPARSE,
    "unknown": b"Z",
}


@pytest.mark.parametrize("name", ["x", "._x"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_links_and_devices(folder, kind, name):
    archive = packed(member("a", b"secret"), member(name, b"", kind, linkname="../../outside"))
    with pytest.raises(ValueError, match=r"archive: expected files and folders, got a link or device .*not unpacked"):
        run(archive, folder)
    assert list(files(folder)) == ["a"]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_sparse_file_by_attributes(folder):
    sparse = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 50)}
    with pytest.raises(ValueError, match="archive: expected files and folders"):
        run(packed(member("x", b"1", pax_headers=sparse)), folder)


SAME = [("a", "a"), ("a", "A"), ("a/b", "A/B"), ("é", "e\u0301"), ("a", "a/b"), ("a/b", "a"), ("./a", "a"), ("ß", "SS")]


@pytest.mark.parametrize("names", SAME, ids=ascii)
def test_names_that_some_system_takes_for_the_same(folder, names):
    with pytest.raises(ValueError, match="archive: expected every name once"):
        run(packed(*(member(name, name.encode()) for name in names)), folder)
    assert len(files(folder)) == 1


def test_names_that_are_not_utf_8(folder):
    with pytest.raises(ValueError, match="archive: expected names in UTF-8"):
        run(packed(member("é"), form=tarfile.GNU_FORMAT, encoding="latin-1"), folder)


def test_a_bomb_is_refused_before_it_is_written(folder):
    archive = packed(member("small", b"1" * 1000), member("bomb", bytes(50_000_000)))
    assert len(archive) < 300_000
    with pytest.raises(ValueError, match=r"expected at most 40000000 bytes unpacked, got 50001000 up to 'bomb'"):
        run(archive, folder, most_bytes=40_000_000)
    assert list(files(folder)) == ["small"]


def test_what_is_left_out_counts(folder):
    with pytest.raises(ValueError, match="expected at most 10 bytes"):
        run(packed(member("._x", b"1" * 11)), folder, most_bytes=10)


def endless(kind: bytes) -> bytes:
    """A header that promises a name of 40 MB."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 40_000_000
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(40_000_000), 1)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE])
def test_a_header_does_not_fill_the_memory(folder, kind):
    archive = endless(kind)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"expected at most [0-9]+ bytes between files"):
            run(archive, folder)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_sparse_map_does_not_fill_the_memory(folder):
    attributes = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x", "GNU.sparse.realsize": "9"}
    content = b"9999999\n" + b"1\n" * 3_000_000
    with pytest.raises(ValueError, match=r"bytes between files|files and folders"):
        run(packed(member("x", content, pax_headers=attributes)), folder)


def test_a_header_of_many_small_ones(folder):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XGLTYPE, 0
    archive = gzip.compress(info.tobuf(tarfile.GNU_FORMAT) * 20_000, 1)
    with pytest.raises(ValueError, match="archive"):
        run(archive, folder)


def test_too_many_files(folder, monkeypatch):
    monkeypatch.setattr("ddsp_la2a.fetching.unpack._MOST_MEMBERS", 5)
    with pytest.raises(ValueError, match="expected at most 5 files"):
        run(packed(*(member(f"{number}") for number in range(6))), folder)


@pytest.mark.parametrize("size", ["-1", "-100000", "9" * 30, "x"])
def test_odd_sizes_in_attributes(folder, size):
    archive = packed(member("a", b"1" * 600, pax_headers={"size": size}), member("b", b"1"))
    with pytest.raises(ValueError, match="archive"):
        run(archive, folder)
    assert b"1" not in files(folder).values()


def test_much_behind_the_end(folder):
    archive = packed(member("a", b"1")) + gzip.compress(bytes(5_000_000))
    with pytest.raises(ValueError, match="bytes between files"):
        run(archive, folder)


def test_what_follows_a_damaged_header_is_not_lost_quietly(folder):
    plain = bytearray(gzip.decompress(packed(member("a", b"1"), member("b", b"2"), member("c", b"3"))))
    plain[1024] ^= 1
    with pytest.raises(DamagedError):
        run(gzip.compress(plain), folder)


@pytest.mark.parametrize("zeros", [0, 512, 1024, 60_000])
def test_any_end(folder, zeros):
    plain = gzip.decompress(packed(member("a", b"1"))).rstrip(b"\0")
    run(gzip.compress(plain.ljust(1024, b"\0") + bytes(zeros)), folder)
    assert files(folder) == {"a": b"1"}


def whole() -> bytes:
    return packed(*(member(f"Train/{name}.wav", os.urandom(20_000)) for name in "abc"))


@pytest.mark.parametrize("end", [0, 1, 5, 17, 20_000, -10_000, -9, -8, -1])
def test_cut_archives(folder, end):
    with pytest.raises(DamagedError, match=r"expected a whole \.tgz"):
        run(whole()[:end], folder)


@pytest.mark.parametrize("at", [0, 3, 30_000, -6, -2])
def test_a_wrong_byte(folder, at):
    archive = bytearray(whole())
    archive[at] ^= 255
    with pytest.raises(DamagedError):
        run(bytes(archive), folder)


@pytest.mark.parametrize("content", [b"<html>not found</html>", gzip.compress(b"no tar" * 1000), b"PK\x03\x04" * 300])
def test_other_files(folder, content):
    with pytest.raises(DamagedError, match="damaged or another file"):
        run(content, folder)
    assert list(folder.rglob("*")) == []
