"""Sources at an address, against a real server on loopback."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.corpus.download import fetch
from tests.corpus.building import build, kept, sentences, source_of

CONTENT = "\n".join(sentences(60)).encode()
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Gives CONTENT at /a.txt; `breaks` connections end in the middle; ranges are known or not."""

    ranges = True
    breaks = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.sent = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/a.txt"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted or "all")
        if self.path == "/out":
            self.send_response(302)
            self.send_header("Location", "http://example.jp/a.txt")
            self.end_headers()
            return
        if self.path != "/a.txt":
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if wanted and self.server.ranges else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        rest = CONTENT[start:]
        if self.server.breaks:
            self.server.breaks -= 1
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)
        self.server.sent += len(rest)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(server: Server, target: Path, path: str = "/a.txt", digest: str = DIGEST) -> None:
    fetch(server.address.replace("/a.txt", path), digest, target, "s", Progress(quiet=True))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_is_taken_up_again(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.breaks, server.ranges = 2, ranges
    get(server, tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes() == CONTENT and len(server.asked) == 3
    assert not (tmp_path / "a.txt.part").exists()
    if ranges:
        assert server.sent == len(CONTENT)  # no byte twice
    get(server, tmp_path / "a.txt")
    assert len(server.asked) == 3


@pytest.mark.parametrize("have", [CONTENT[:1000], CONTENT, b"x" * 1000])
def test_what_an_earlier_run_left_is_used_if_it_is_right(server: Server, tmp_path: Path, have: bytes) -> None:
    (tmp_path / "a.txt.part").write_bytes(have)
    get(server, tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes() == CONTENT
    assert server.asked[0] == f"bytes={len(have)}-"


def test_another_file_than_was_asked_for_is_not_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(KibanError, match="has the sha256"):
        get(server, tmp_path / "a.txt", digest="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_and_where_it_must_not_lead(server: Server, tmp_path: Path) -> None:
    with pytest.raises(KibanError, match="404"):
        get(server, tmp_path / "b", "/none")
    with pytest.raises(KibanError, match="redirected: 'http://' is not fetched from"):
        get(server, tmp_path / "b", "/out")


@pytest.mark.parametrize(
    ("path", "sha256", "expected"),
    [
        ("http://example.jp/a.txt", DIGEST, "use https://"),
        ("ftp://example.jp/a.txt", DIGEST, "use https://"),
        ("https://me:secret@example.jp/a.txt", DIGEST, "a password in an address"),
        ("https://example.jp/", DIGEST, "names no file"),
        ("https://example.jp/a.txt", None, "needs the `sha256`"),
    ],
)
def test_addresses_that_are_refused(path: str, sha256: str | None, expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        source_of("s", Path("x"), "plain").model_validate(
            source_of("s", Path("x"), "plain").model_dump(by_alias=True) | {"path": path, "sha256": sha256}
        )


def test_a_corpus_from_an_address(server: Server, tmp_path: Path) -> None:
    source = source_of("s", tmp_path / "x", "plain").model_copy(update={"path": server.address, "sha256": DIGEST})
    source = source.model_copy(update={"location": str(tmp_path / "downloads" / "a.txt")})
    assert kept(build(tmp_path / "store", [source], hold_back=0))
    assert len(server.asked) == 1


def test_a_file_that_is_another_than_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(CONTENT)
    assert kept(build(tmp_path / "store", [source_of("s", tmp_path / "a.txt", "plain", sha256=DIGEST)], hold_back=0))
    with pytest.raises(KibanError, match="is not the file with the sha256"):
        build(tmp_path / "store", [source_of("s", tmp_path / "a.txt", "plain", sha256="0" * 64)], hold_back=0)
