"""Members of .tar.zst, .tar.gz, .tar.bz2, .tar, .zip, .zst, .gz and .bz2 files, of folders and of single files:
streamed, never unpacked.

Archives come from outside, so nothing in them is believed: names that lead out of the archive, members that are no
files, sizes far beyond what was compressed, and ends that are missing are all found here. None of it ends a run: what
cannot be had is told as an entry without a stream, and the other files are read.
"""

import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from kiban.artifacts.errors import KibanError

TAR = {".tar.zst": "zstd", ".tar.gz": "gzip", ".tgz": "gzip", ".tar.bz2": "bz2", ".tar": None}
COMPRESSED = {".zst": "zstd", ".gz": "gzip", ".bz2": "bz2"}
ARCHIVES = (*TAR, ".zip")

# Text compresses 2 to 60 times (versions of one law side by side: 53 times). Bombs start at several hundred.
MOST_RATIO = 200
RATIO_FROM_BYTES = 64 << 20
READ_BYTES = 64 << 10
ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    UnicodeDecodeError,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)
LEADS_OUT = "its name leads out of the archive; do not trust this archive: ask its sender"
TAR_END_BYTES = 1024  # a tar archive ends with two blocks of zeros


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True)
class Entry:
    """A file of a source. Read `stream` before asking for the next entry; it raises `Damaged` where it cannot be read
    on. It is None where `refusal` says why, `reason` in a word.

    `bytes` is its size, -1 where only reading it would tell. `consumed` is how much of the source's files was read when
    it was reached, for progress.
    """

    name: str
    bytes: int
    stream: Readable | None
    refusal: str = ""
    consumed: int = 0
    reason: str = "not_a_file"


class Damaged(Exception):
    """Why the rest of a file cannot be had: `reason` in a word for the ledger, the message in full."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def files(location: Path, endings: tuple[str, ...], source: str) -> list[Path]:
    """The files that a source at `location` is made of: itself, or the documents and archives in the folder, sorted.

    Raises:
        KibanError: if there is no such place, or nothing in it has one of the `endings`.
    """
    if location.is_file():
        return [location]
    if not location.is_dir():
        raise KibanError(f"source '{source}': {location} does not exist; correct its `path`, or bring the data there")
    found, _ = _walk(location, endings)
    if not found:
        raise KibanError(
            f"source '{source}': there is no {' or '.join(endings)} file in {location}; "
            "correct its `path` or its `format`"
        )
    return found


def entries(location: Path, endings: tuple[str, ...], source: str) -> Iterator[Entry]:
    """Every file of the source at `location`, in a fixed order; archives are opened, their members' names kept.

    Raises:
        KibanError: for a place that is missing or may not be read. What is damaged or hostile is an entry.
    """
    before = 0
    for path in files(location, endings, source):
        name = _printable(path.relative_to(location).as_posix() if location.is_dir() else path.name)
        lower = path.name.lower()
        try:
            if lower.endswith(ARCHIVES):
                prefix = f"{name}/" if location.is_dir() else ""
                for entry in _zip_entries(path) if lower.endswith(".zip") else _tar_entries(path):
                    yield replace(entry, name=prefix + entry.name, consumed=before + entry.consumed)
            elif lower.endswith(tuple(COMPRESSED)):
                with _Guarded(path, COMPRESSED[path.suffix.lower()]) as stream:
                    yield Entry(name[: -len(path.suffix)], -1, stream, consumed=before)
                    if not stream.told:
                        stream.finish()
            else:
                with path.open("rb") as plain:
                    yield Entry(name, path.stat().st_size, plain, consumed=before)
        except Damaged as damage:
            yield Entry(name, 0, None, str(damage), before, damage.reason)
        except PermissionError:
            raise KibanError(f"source '{source}': {path} may not be read; give yourself permission to") from None
        before += path.stat().st_size
    if location.is_dir():
        for link in _walk(location, endings)[1]:
            yield Entry(
                _printable(link.relative_to(location).as_posix()),
                0,
                None,
                "a symbolic link, which is not followed",
                before,
            )


def _walk(location: Path, endings: tuple[str, ...]) -> tuple[list[Path], list[Path]]:
    """Regular files with one of the endings or an archive's, and symbolic links, both sorted."""
    found: list[Path] = []
    links: list[Path] = []
    wanted = (*endings, *ARCHIVES, *(ending + packed for ending in endings for packed in COMPRESSED))
    for folder, folders, names in os.walk(location):
        links += [Path(folder, name) for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in names:
            path = Path(folder, name)
            if name.lower().endswith(wanted):
                (links if path.is_symlink() else found).append(path)
    return sorted(path for path in found if path.is_file()), sorted(links)


class _Guarded:
    """The decompressed bytes of a file. Finds bombs and missing ends while it is read; memory stays bounded."""

    def __init__(self, path: Path, codec: str | None) -> None:
        import pyarrow as pa

        self._path = path
        self._raw: Any = pa.OSFile(str(path))
        self._stream: Any = pa.CompressedInputStream(self._raw, codec) if codec else self._raw
        self._codec = codec
        self._given = 0
        self.inside = ""  # the member that is being read, for the message
        self.tail = b""  # the last bytes given
        self._damage: Damaged | None = None
        self.told = False  # whether the damage was raised already

    def __enter__(self) -> "_Guarded":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._raw.close()

    @property
    def consumed(self) -> int:
        return int(self._raw.tell())

    def read(self, size: int = -1, /) -> bytes:
        if size >= 0:
            return self._read_some(size)
        parts = []
        while part := self._read_some(READ_BYTES):
            parts.append(part)
        return b"".join(parts)

    def finish(self) -> None:
        """Reads to the end, so that a missing end is found."""
        while self._read_some(READ_BYTES):
            pass

    def _read_some(self, size: int) -> bytes:
        """As many bytes as there are up to `size`: what stands before the damage is given before it is told."""
        parts: list[bytes] = []
        while size > 0 and self._damage is None:
            try:
                part = self._stream.read(min(size, READ_BYTES))
            except OSError as error:
                self._damage = _damaged(self._path, self.inside, (str(error).splitlines() or ["unreadable"])[0])
                break
            if not part:
                break
            self._given += len(part)
            size -= len(part)
            parts.append(part)
            self.tail = (self.tail + part[-TAR_END_BYTES:])[-TAR_END_BYTES:]
            if self._codec and self._given > max(RATIO_FROM_BYTES, MOST_RATIO * self._raw.tell()):
                self._damage = _bomb(self._path, self.inside, self._given, self._raw.tell())
        if self._damage is not None and not parts:
            self.told = True
            raise self._damage
        return b"".join(parts)


def _tar_entries(path: Path) -> Iterator[Entry]:
    codec = next(codec for ending, codec in TAR.items() if path.name.lower().endswith(ending))
    with _Guarded(path, codec) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=READ_BYTES) as tar:  # type: ignore[call-overload]
                for member in tar:
                    tar.members = []  # tarfile keeps every header it has seen
                    if member.isdir():
                        continue
                    name = stream.inside = _printable(member.name)
                    if not _stays_inside(member.name):
                        yield Entry(name, 0, None, LEADS_OUT, stream.consumed, "unsafe_name")
                    elif member.isfile():
                        content = tar.extractfile(member)
                        yield Entry(name, member.size, _Member(path, name, content.read), consumed=stream.consumed)
                    else:
                        kind = "a link" if member.issym() or member.islnk() else "a device"
                        yield Entry(name, 0, None, f"{kind}, not a file", stream.consumed)
            stream.finish()
            if stream.tail.strip(b"\0") or len(stream.tail) < TAR_END_BYTES:
                raise _damaged(path, stream.inside, "the mark at its end is missing")
        except (tarfile.TarError, UnicodeDecodeError, ValueError, OverflowError) as error:
            raise _damaged(path, stream.inside, str(error)) from None


def _zip_entries(path: Path) -> Iterator[Entry]:
    # Names without the UTF-8 flag are CP932 in archives made on Japanese Windows, and ASCII in nearly all others.
    try:
        with zipfile.ZipFile(path, metadata_encoding="cp932") as archive:
            members = sorted((info for info in archive.infolist() if not info.is_dir()), key=lambda info: info.filename)
            total = sum(info.file_size for info in members)
            if total > max(RATIO_FROM_BYTES, MOST_RATIO * path.stat().st_size):
                largest = max(members, key=lambda info: info.file_size)
                raise _bomb(path, largest.filename, total, path.stat().st_size)
            consumed = 0
            for info in members:
                name = _printable(info.filename)
                if not _stays_inside(info.orig_filename):
                    yield Entry(name, 0, None, LEADS_OUT, consumed, "unsafe_name")
                elif (info.external_attr >> 16) & 0o170000 == 0o120000:
                    yield Entry(name, 0, None, "a link, not a file", consumed)
                elif info.flag_bits & 1:
                    yield Entry(name, 0, None, "encrypted; unpack it and give the folder", consumed, "encrypted")
                else:
                    try:
                        with archive.open(info) as stream:
                            yield Entry(name, info.file_size, _Member(path, name, stream.read), consumed=consumed)
                    except ZIP_ERRORS as error:
                        yield Entry(name, 0, None, str(error), consumed, "damaged")
                consumed += info.compress_size
    except PermissionError:
        raise
    except ZIP_ERRORS as error:
        raise _damaged(path, "", str(error)) from None


@dataclass(frozen=True)
class _Member:
    """A member whose damage is told with its name. zipfile and tarfile give no more bytes than its header promised."""

    path: Path
    name: str
    read_raw: Callable[[int], bytes]

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self.read_raw(size)
        except (tarfile.TarError, *ZIP_ERRORS) as error:
            raise _damaged(self.path, self.name, str(error)) from None


def _damaged(path: Path, member: str, why: str) -> Damaged:
    where = f" at member '{member}'" if member else ""
    detail = f"{path.name}: damaged or cut short{where} ({why}); fetch the archive again and compare its digest"
    return Damaged("damaged", detail)


def _bomb(path: Path, member: str, given: int, packed: int) -> Damaged:
    where = f", in member '{member}'," if member else ""
    return Damaged(
        "bomb",
        f"{path.name}: {given >> 20} MiB out of {max(packed >> 10, 1)} KiB{where} is more than {MOST_RATIO} times: "
        "a decompression bomb? If the data is right, unpack it and give the folder",
    )


def _stays_inside(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return bool(parts) and ".." not in parts and parts[0] != "/" and not parts[0].endswith(":") and "\0" not in name


def _printable(name: str) -> str:
    """A name as text: bytes of it that are no UTF-8 are written as \\udcXX."""
    return name.replace("\\", "/").removeprefix("./").encode(errors="backslashreplace").decode()
