"""Long files over connections that break: the same bytes in the end, no byte twice, and no end without an error."""

from __future__ import annotations

import json
import re
from urllib.request import Request

import numpy as np
import pytest
from loopback import cut, hang, redirect, serving, status, trickle

from ddsp_la2a.fetching import download as module
from ddsp_la2a.fetching.download import bytes_kept, download, inquire, state_path
from ddsp_la2a.fetching.web import _Redirects, checked_url, read_document

CONTENT = np.random.default_rng(0).bytes(300_000)
QUICK = {"pauses_s": (0.0, 0.0), "timeout_s": 5.0}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        server.files["a.tgz"] = CONTENT
        yield server


@pytest.fixture
def part(tmp_path):
    return tmp_path / "a.tgz.part"


def get(server, part, **how):
    """What the server has, and one run of the download; only the run's requests are kept."""
    remote = inquire(server.url("a.tgz"), timeout_s=5.0)
    server.asked.clear()
    go_on(remote, part, **how)
    return remote


def go_on(remote, part, **how):
    with part.open("a+b") as file:
        download(remote, part, file, **QUICK | how)


def test_all_at_once(server, part):
    seen = []
    get(server, part, progress=lambda done, total: seen.append((done, total)))
    assert part.read_bytes() == CONTENT
    assert server.ranges_asked == [None]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_goes_on_in_the_same_run(server, part):
    server.faults = [None, cut(100_000), cut(50_000)]
    get(server, part)
    assert part.read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=100000-", "bytes=150000-"]
    assert [request["If-Range"] for request in server.asked] == [None, '"first"', '"first"']


def test_goes_on_in_the_next_run(server, part):
    server.faults = [None, cut(70_000)]
    with pytest.raises(ConnectionError, match=r"expected 300000 bytes, got 70000 .*run the command again"):
        get(server, part, pauses_s=())
    remote = inquire(server.url("a.tgz"))
    assert bytes_kept(part, remote) == 70_000
    get(server, part)
    assert part.read_bytes() == CONTENT
    assert server.ranges_asked == ["bytes=70000-"]


def test_goes_on_after_an_interruption(server, part):
    def interrupt(done, total):
        if done > 50_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(server, part, progress=interrupt)
    kept = part.stat().st_size
    assert kept > 50_000
    assert CONTENT.startswith(part.read_bytes())
    seen = []
    get(server, part, progress=lambda done, _: seen.append(done))
    assert part.read_bytes() == CONTENT
    if kept < len(CONTENT):
        assert server.ranges_asked == [f"bytes={kept}-"]
        assert seen[0] > kept


def test_a_complete_part_asks_nothing(server, part):
    remote = get(server, part)
    server.asked.clear()
    go_on(remote, part)
    assert server.asked == []


def test_by_date_where_there_is_no_strong_etag(server, part):
    server.headers = {"ETag": 'W/"weak"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    server.faults = [None, cut(10)]
    get(server, part)
    assert part.read_bytes() == CONTENT
    assert server.asked[-1]["If-Range"] == "Wed, 21 Oct 2015 07:28:00 GMT"


def test_without_any_validator(server, part):
    server.headers = {}
    server.faults = [None, cut(10)]
    get(server, part)
    assert part.read_bytes() == CONTENT
    assert server.asked[-1] == {"path": "/a.tgz", "Range": "bytes=10-", "If-Range": None}


def test_server_without_ranges_begins_anew(server, part, caplog):
    server.ranges = False
    server.faults = [None, cut(100_000)]
    get(server, part)
    assert part.read_bytes() == CONTENT
    assert "only gives the whole file; begins anew" in caplog.text


def test_server_with_ranges_that_does_not_understand_the_condition(server, part):
    """All of it comes for Range with If-Range: no reason to throw away what is there."""

    def whole_if_conditional(handler):
        handler.headers.replace_header("If-Range", "never")
        handler.answer()

    server.faults = [None, cut(100_000), whole_if_conditional]
    get(server, part)
    assert part.read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=100000-", "bytes=100000-"]
    assert [request["If-Range"] for request in server.asked] == [None, '"first"', None]


def test_begins_anew_where_the_file_has_changed_between_runs(server, part, caplog):
    server.faults = [None, cut(100_000)]
    with pytest.raises(ConnectionError):
        get(server, part, pauses_s=())
    server.files["a.tgz"], server.headers = CONTENT[::-1], {"ETag": '"second"'}
    get(server, part)
    assert part.read_bytes() == CONTENT[::-1]
    assert server.ranges_asked == [None]
    assert "not a part of what the server has now; begins anew" in caplog.text


@pytest.mark.parametrize("change", [{"headers": {"ETag": '"second"'}}, {"files": {"a.tgz": CONTENT[:-7] * 2}}])
def test_a_change_within_a_run_throws_nothing_away(server, part, change):
    """It may be a login page or a server of the same name that isn't up to date."""

    def then_change(handler):
        handler.answer(most=100_000)
        for name, value in change.items():
            setattr(server, name, value)

    server.faults = [None, then_change]
    with pytest.raises(ConnectionError, match=r"got 100000 \(another file"):
        get(server, part)
    assert part.read_bytes() == CONTENT[:100_000]


def test_a_part_without_its_state_begins_anew(server, part):
    part.write_bytes(b"someone else's")
    get(server, part)
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize("state", ["", "[]", "{", "\x00", '{"url": 1}'])
def test_a_damaged_state_begins_anew(server, part, state):
    part.write_bytes(CONTENT[:1000])
    state_path(part).write_text(state, encoding="utf-8")
    get(server, part)
    assert part.read_bytes() == CONTENT
    assert server.ranges_asked == [None]


def test_a_part_that_is_too_long_begins_anew(server, part):
    remote = inquire(server.url("a.tgz"))
    state_path(part).write_text(json.dumps(remote.state), encoding="utf-8")
    part.write_bytes(CONTENT + b"more")
    get(server, part)
    assert part.read_bytes() == CONTENT


def test_refused_range_begins_anew(server, part):
    server.faults = [None, cut(1000), status(416, Content_Range="bytes */300000")]
    get(server, part)
    assert part.read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=1000-", None]


@pytest.mark.parametrize("answer", ["bytes 0-299999/300000", "bytes 1000-299998/299999", "bytes */*", "x"])
def test_a_wrong_range_is_not_appended(server, part, answer):
    wrong = lambda handler: handler.answer(headers={"Content-Range": answer})  # noqa: E731
    server.faults = [None, cut(1000), wrong]
    get(server, part)
    assert part.read_bytes() == CONTENT


def test_a_range_from_elsewhere_is_not_appended(server, part):
    """Said so honestly, and of the right file."""

    def from_the_start(handler):
        handler.headers.replace_header("Range", "bytes=0-")
        handler.answer()

    server.faults = [None, cut(1000), from_the_start]
    get(server, part)
    assert part.read_bytes() == CONTENT


def test_a_range_that_nobody_asked_for(server, part):
    odd = lambda handler: handler.send(206, {"Content-Range": "bytes 0-9/300000", "Content-Length": "10"}, b"?" * 10)  # noqa: E731
    server.faults = [None, odd]
    get(server, part)
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_busy_server_is_asked_again(server, part, code):
    server.faults = [None, status(code)]
    get(server, part)
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize(("after", "slept"), [("7", 7.0), ("99999", 300.0), ("-1", 0.5), ("soon", 0.5)])
def test_a_busy_server_says_when(server, part, monkeypatch, after, slept):
    pauses = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    server.faults = [None, status(503, Retry_After=after)]
    get(server, part, pauses_s=(0.5,))
    assert pauses == [slept]


def test_pauses_grow_and_progress_gives_them_back(server, part, monkeypatch):
    pauses = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 1000)
    server.faults = [None, status(503), status(503), cut(5000), status(503), cut(10), status(503)]
    with pytest.raises(ConnectionError, match=r"got 5010 \(503"):
        get(server, part, pauses_s=(1.0, 2.0, 3.0))
    assert pauses == [1.0, 2.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_final_answer_ends_it(server, part, code):
    server.faults = [None, cut(1000), status(code)]
    with pytest.raises(ConnectionError, match=f"expected the file, got {code}"):
        get(server, part)
    assert part.read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize(("fault", "said"), [(hang, "timed out"), (trickle, "only [0-9]+ bytes in")])
def test_a_server_that_hangs_ends_in_an_error(server, part, fault, said):
    server.faults = [None, fault]
    with pytest.raises(ConnectionError, match=said):
        get(server, part, timeout_s=0.2, pauses_s=())


@pytest.mark.parametrize("fault", [hang, trickle])
def test_a_document_that_does_not_come(server, fault):
    server.faults = [fault]
    with pytest.raises(ConnectionError, match=r"timed out|within 0\.2 s"):
        read_document(server.url("a.tgz"), most_bytes=1 << 20, timeout_s=0.2)


def test_a_document_that_is_too_long(server):
    assert read_document(server.url("a.tgz"), most_bytes=len(CONTENT), timeout_s=5.0) == CONTENT
    with pytest.raises(ValueError, match="expected at most 299999 bytes, got more"):
        read_document(server.url("a.tgz"), most_bytes=len(CONTENT) - 1, timeout_s=5.0)


def test_a_hang_in_the_middle_goes_on(server, part):
    def half(handler):
        handler.answer(most=100_000)
        hang(handler)

    server.faults = [None, half]
    get(server, part, timeout_s=0.3)
    assert part.read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=100000-"]


def test_a_full_disk_is_not_tried_again(server, part):
    remote = inquire(server.url("a.tgz"))
    server.asked.clear()
    with part.open("a+b") as file:
        full = type("Full", (), {"__getattr__": lambda _, name: getattr(file, name), "write": _no_space})()
        with pytest.raises(OSError, match="No space left"):
            download(remote, part, full, **QUICK)
    assert len(server.asked) == 1


def _no_space(*_):
    raise OSError(28, "No space left on device")


def test_redirects_are_followed_to_where_they_may_lead(server, part):
    server.files["b"] = CONTENT
    server.faults = [redirect(server.url("b")), None, redirect("/b"), cut(1000), redirect("/b")]
    get(server, part)
    assert part.read_bytes() == CONTENT
    assert server.asked[-1] == {"path": "/b", "Range": "bytes=1000-", "If-Range": '"first"'}


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "gopher://h/", "http://u:p@127.0.0.1/"]
)
def test_redirects_elsewhere_are_refused(server, target):
    server.faults = [redirect(target)]
    with pytest.raises((ConnectionError, ValueError), match=r"not allowed|expected http"):
        inquire(server.url("a.tgz"))
    assert len(server.asked) == 1


def test_redirects_in_a_circle_end(server):
    server.faults = [redirect("/a.tgz")] * 50
    with pytest.raises(ConnectionError, match="infinite loop"):
        inquire(server.url("a.tgz"))


def test_an_encrypted_address_only_redirects_to_one():
    redirects = _Redirects()
    asked = Request("https://host/x")
    with pytest.raises(ValueError, match="expected an encrypted address"):
        redirects.redirect_request(asked, None, 302, "", {}, "http://host/x")
    assert redirects.redirect_request(asked, None, 302, "", {}, "https://other/x").full_url == "https://other/x"


NO_ADDRESSES = ["file:///etc/passwd", "ftp://h/x", "data:,x", "h/x", "", "//h/x", "https://", "HTTPS:/h", "http://["]


@pytest.mark.parametrize("url", [*NO_ADDRESSES, "https://u:p@h/x", "http://h:x/", "http://h/a b", "http://h/\r\nX: y"])
def test_other_addresses_are_refused(url):
    with pytest.raises(ValueError, match=r"url: expected http:// or https://.*got " + re.escape(repr(url))):
        checked_url(url)
    with pytest.raises(ValueError, match="url"):
        inquire(url)


@pytest.mark.parametrize("headers", [{"Content-Length": "x"}, {"Content-Length": "-5"}, {"Content-Length": "0"}])
def test_a_server_has_to_say_the_length(server, headers):
    server.faults = [lambda handler: handler.send(200, headers, b"")]
    with pytest.raises((ConnectionError, ValueError), match="how long"):
        inquire(server.url("a.tgz"))


def test_what_a_server_writes_reaches_no_terminal(server):
    def escape(handler):
        handler.wfile.write(b"HTTP/1.1 404 \x1b[2J\x07gone\r\nContent-Length: 0\r\n\r\n")

    server.faults = [escape]
    with pytest.raises(ConnectionError) as caught:
        inquire(server.url("a.tgz"))
    assert "gone" in str(caught.value)
    assert str(caught.value).isprintable()


def test_nobody_there(part):
    with serving() as server:
        url = server.url("a.tgz")
    with pytest.raises(
        ConnectionError, match=r"expected an answer, got: .*refused.*; check the connection and run again"
    ):
        inquire(url)
