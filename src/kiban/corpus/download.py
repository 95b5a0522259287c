"""Sources at an https address: fetched once, gone on with after an interruption, believed only by their sha256."""

import fcntl
import http.client
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import fsync_folder
from kiban.artifacts.hashing import sha256_file
from kiban.artifacts.progress import Progress
from kiban.corpus.addresses import check_url

BLOCK_BYTES = 1 << 20
ATTEMPTS = 5  # in a row without a byte
TIMEOUT_SECONDS = 60.0
NETWORK = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to what `check_url` allows, and to nothing else."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str, sha256: str, target: Path, source: str, progress: Progress) -> None:
    """Brings the file at `url` to `target`, unless it is there. What an interrupted run got is kept beside it in a
    `.part` file, and only the rest is asked for.

    Raises:
        KibanError: if it cannot be had, or is another file than `sha256` says (then nothing of it is kept).
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with part.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another run may be fetching it
        if target.exists():
            part.unlink(missing_ok=True)
            return
        begun = file.tell() > 0
        _receive(url, file, source, progress)
        found = sha256_file(part)
        if found != sha256 and begun:  # what was there may have been of an older file
            file.truncate(0)
            _receive(url, file, source, progress)
            found = sha256_file(part)
        if found != sha256:
            part.unlink()
            raise KibanError(
                f"source '{source}': {url} has the sha256 {found}, not {sha256}; "
                "it was changed, there or on its way: ask the partner, or correct `sha256`"
            )
        part.rename(target)
    fsync_folder(target.parent)


def _receive(url: str, file: Any, source: str, progress: Progress) -> None:
    """Appends to `file` what it lacks of `url`."""
    opener = urllib.request.build_opener(_Redirects)
    failed = 0
    with progress.task(f"fetching {source}", None, "MB") as task:
        while True:
            have = os.fstat(file.fileno()).st_size
            headers = {"User-Agent": "kiban", "Accept-Encoding": "identity"}
            if have:
                headers["Range"] = f"bytes={have}-"
            try:
                with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as answer:
                    if have and answer.status != 206:  # a server that knows no ranges sends all of it
                        file.truncate(0)
                        have = 0
                    length = answer.headers.get("Content-Length")
                    whole = have + int(length) if length else None
                    while block := answer.read(BLOCK_BYTES):
                        file.write(block)
                        file.flush()
                        have += len(block)
                        failed = 0
                        task.update(have / 1e6)
                os.fsync(file.fileno())
                if whole is None or have >= whole:
                    return
                raise ConnectionError("the connection ended early")
            except ValueError as error:
                raise KibanError(f"source '{source}': {url}: redirected: {error}") from None
            except urllib.error.HTTPError as error:
                if error.code == 416:  # there is nothing after what we have
                    return
                if error.code < 500 and error.code not in (408, 429):
                    raise KibanError(
                        f"source '{source}': {url}: {error.code} {error.reason}; correct its `path`"
                    ) from None
                failed = _again(url, source, error, failed)
            except NETWORK as error:
                failed = _again(url, source, error, failed)


def _again(url: str, source: str, error: Exception, failed: int) -> int:
    if failed + 1 >= ATTEMPTS:
        why = getattr(error, "reason", None) or error
        raise KibanError(
            f"source '{source}': {url} cannot be fetched ({why}); run again: it goes on where it stopped"
        ) from None
    time.sleep(0.2 * 2**failed)
    return failed + 1
