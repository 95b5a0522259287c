"""Work on hostile documents in a process of its own, which is killed when it takes too long or too much: extraction of
web pages and PDF can hang or crash, and nothing within a process ends that.

Frames go through the worker's stdin and stdout: four bytes of length, then JSON or the document's bytes.
"""

import atexit
import json
import os
import select
import struct
import subprocess
import sys
import time
from typing import Any, BinaryIO

from kiban.corpus.documents import Unreadable

START_SECONDS = 120.0
MOST_BYTES = 4 << 30  # of address space
LENGTH = struct.Struct("<I")


class _Late(Exception):
    pass


class Worker:
    """A process that does one kind of `work` (see `WORK`), started when it is first needed."""

    def __init__(self, work: str) -> None:
        self._work = work
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, data: bytes, seconds: float) -> dict[str, str]:
        """What the work gives for `data`.

        Raises:
            Unreadable: if it failed, took more than `seconds`, or ended its process.
        """
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(LENGTH.pack(len(data)) + data)
            process.stdin.flush()
            answer = json.loads(_receive(process, time.monotonic() + seconds))
        except _Late:
            self.kill()
            raise Unreadable(f"{self._work} took more than {seconds:g} s") from None
        except (BrokenPipeError, EOFError):
            self.kill()
            raise Unreadable(f"{self._work} ended its process") from None
        if "error" in answer:
            raise Unreadable(f"{self._work}: {answer['error']}")
        return dict(answer)

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "kiban.corpus.readers.isolated", self._work]
            # A child must find the same kiban that this process has, however it was found.
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            try:
                _receive(self._process, time.monotonic() + START_SECONDS)
            except (_Late, EOFError):
                self.kill()
                raise RuntimeError(f"the process for {self._work} does not start") from None
        return self._process

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


_WORKERS: dict[str, Worker] = {}


def worker(work: str) -> Worker:
    """This process's worker for `work`."""
    if work not in _WORKERS:
        _WORKERS[work] = Worker(work)
        atexit.register(_WORKERS[work].kill)
    return _WORKERS[work]


def _receive(process: "subprocess.Popen[bytes]", deadline: float) -> bytes:
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    buffer = bytearray()
    wanted = LENGTH.size
    while len(buffer) < wanted:
        if not select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))[0]:
            raise _Late
        part = os.read(descriptor, min(wanted - len(buffer), 1 << 20))
        if not part:
            raise EOFError
        buffer += part
        if wanted == LENGTH.size and len(buffer) == wanted:
            wanted += LENGTH.unpack(buffer)[0]
    return bytes(buffer[LENGTH.size :])


def resiliparse(page: str) -> dict[str, str]:
    """The main content of a page: fast."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(page)
    text = extract_plain_text(
        tree, main_content=True, preserve_formatting=True, alt_texts=False, list_bullets=False, form_fields=False
    )
    return {"text": text, "title": (tree.title or "").strip()}


def trafilatura(page: str) -> dict[str, str]:
    """The main content of a page, with its author and date where they are found: slow and careful."""
    from trafilatura import bare_extraction

    found = bare_extraction(page, include_comments=False, include_tables=True, with_metadata=True)
    if found is None:
        return {"text": ""}
    return {key: str(getattr(found, key) or "") for key in ("text", "title", "author", "date")}


def pdf(data: bytes) -> dict[str, str]:
    """The text of a PDF, page by page."""
    import pypdfium2

    document = pypdfium2.PdfDocument(data)
    said = document.get_metadata_dict()
    pages = []
    for page in document:
        text_page = page.get_textpage()
        pages.append(text_page.get_text_range())
        text_page.close()
        page.close()
    made = said.get("CreationDate", "").removeprefix("D:")
    date = f"{made[:4]}-{made[4:6]}-{made[6:8]}" if made[:8].isdigit() and len(made) >= 8 else ""
    return {"text": "\f".join(pages), "title": said.get("Title", ""), "author": said.get("Author", ""), "date": date}


WORK: dict[str, Any] = {"resiliparse": resiliparse, "trafilatura": trafilatura, "pdf": pdf}


def _serve(work: str, requests: BinaryIO, answers: BinaryIO) -> None:
    def answer(value: dict[str, str]) -> None:
        data = json.dumps(value).encode()
        answers.write(LENGTH.pack(len(data)) + data)
        answers.flush()

    function = WORK[work]
    if work != "pdf":
        function("<p>始")  # what it imports is not the first document's time
    answer({})
    while len(head := requests.read(LENGTH.size)) == LENGTH.size:
        data = requests.read(LENGTH.unpack(head)[0])
        try:
            answer(function(data if work == "pdf" else data.decode()))
        except Exception as error:  # whatever a library raises on a hostile document is that document's fault
            answer({"error": f"{type(error).__name__}: {error}"[:500]})


def main() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not come among the answers
    _serve(sys.argv[1], sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
