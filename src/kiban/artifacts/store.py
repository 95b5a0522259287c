"""The store: artifacts by address. An artifact is there whole, or it is not there.

    <root>/artifacts/<kind>/<hex>/            files and manifest.json
    <root>/artifacts/<kind>/<hex>.sha256      the digest of manifest.json, which evidence pins
    <root>/staging/<hex>/                     an artifact in the making, kept when its stage is interrupted
    <root>/locks/<hex>.lock                   held while an address is made: two runners do not harm each other

Where the store is an fsspec URL (`s3://...`), the local root is the working copy: finished artifacts are uploaded, with
manifest.json last, and fetched and verified when they are missing here.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import fsync_folder, read_json, write_atomic, write_json
from kiban.artifacts.hashing import sha256_bytes, sha256_file
from kiban.artifacts.manifest import MANIFEST, FileRecord, Manifest, Metric
from kiban.artifacts.rights import Rights

WORK = ".work"


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: a local folder and the manifest in it."""

    path: Path
    manifest: Manifest

    @property
    def kind(self) -> str:
        return self.manifest.kind

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def address(self) -> str:
        return self.manifest.address

    @property
    def metrics(self) -> dict[str, Metric]:
        return self.manifest.metrics

    @property
    def settings(self) -> dict[str, Any]:
        return self.manifest.settings

    @property
    def rights(self) -> Rights:
        return self.manifest.rights

    @property
    def manifest_digest(self) -> str:
        """The sha256 of manifest.json as it is on disk now."""
        return sha256_file(self.path / MANIFEST)

    def check(self) -> None:
        """Re-reads every byte.

        Raises:
            KibanError: naming the first file that is missing, extra, or not what the manifest says.
        """
        remedy = f"delete {self.path} and run again to make it anew"
        recorded = self.path.with_suffix(".sha256")
        if recorded.exists() and recorded.read_text().strip() != self.manifest_digest:
            raise KibanError(f"{self.path / MANIFEST}: not the manifest that was sealed; {remedy}")
        found = set(_files_below(self.path)) - {MANIFEST}
        for name, record in self.manifest.files.items():
            if name not in found:
                raise KibanError(f"{self.path / name}: missing; {remedy}")
            if sha256_file(self.path / name) != record.sha256:
                raise KibanError(f"{self.path / name}: the bytes are not those that were sealed; {remedy}")
        extra = sorted(found - set(self.manifest.files))
        if extra:
            raise KibanError(f"{self.path / extra[0]}: not part of the artifact; remove it, or {remedy}")


def read_artifact(folder: Path) -> Artifact:
    """The artifact in `folder`.

    Raises:
        KibanError: if there is no manifest, or it is not one that this version reads.
    """
    content = read_json(folder / MANIFEST)
    try:
        return Artifact(folder, Manifest.model_validate(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise KibanError(f"{folder / MANIFEST}: {where}: {first['msg']}; made by another version of Kiban?") from None


class Store:
    """Artifacts below `root`, mirrored to `remote` (an fsspec URL) where one is given.

    Raises:
        KibanError: if the folder cannot be written to, or the URL cannot be opened.
    """

    def __init__(self, root: Path, remote: str | None = None) -> None:
        self.root = root
        try:
            for folder in ("artifacts", "staging", "locks"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            with (root / "locks" / "probe.lock").open("w"):
                pass
        except OSError as error:
            raise KibanError(
                f"store {root}: cannot be written to ({error.strerror}); make it writable, "
                "or set another `store` in kiban.toml"
            ) from None
        self._remote = _open_remote(remote) if remote else None

    # Finding

    def find(self, kind: str, address: str) -> Artifact | None:
        """The artifact at `address`, if it is there whole; fetched first where only the remote store has it.

        Checks the manifest's digest and every file's presence and size, not its bytes: see `Artifact.check`.

        Raises:
            KibanError: if what is there is damaged.
        """
        folder = self._folder(kind, address)
        if not (folder / MANIFEST).exists():
            if self._remote is None or not self._fetch(kind, address):
                return None
        artifact = read_artifact(folder)
        self._check_quickly(artifact)
        return artifact

    def all(self) -> list[Artifact]:
        """Every artifact that is here, oldest first."""
        folders = (path.parent for path in self.root.glob(f"artifacts/*/*/{MANIFEST}"))
        return sorted((read_artifact(folder) for folder in folders), key=lambda a: (a.manifest.made.at, a.address))

    def _folder(self, kind: str, address: str) -> Path:
        return self.root / "artifacts" / kind / address.removeprefix("sha256:")

    def _check_quickly(self, artifact: Artifact) -> None:
        recorded = artifact.path.with_suffix(".sha256")
        remedy = f"delete {artifact.path} and run again to make it anew"
        if not recorded.exists():  # killed between the rename and the digest: the folder is whole, so finish the job
            write_atomic(recorded, artifact.manifest_digest + "\n")
        elif recorded.read_text().strip() != artifact.manifest_digest:
            raise KibanError(f"{artifact.path / MANIFEST}: not the manifest that was sealed; {remedy}")
        for name, record in artifact.manifest.files.items():
            path = artifact.path / name
            if not path.is_file() or path.stat().st_size != record.bytes:
                raise KibanError(f"{path}: missing or of another size than was sealed; {remedy}")

    # Making

    @contextmanager
    def making(self, address: str) -> Iterator[Path]:
        """Holds the lock on `address` and gives the staging folder, with what an interrupted run left in it.

        Waits while another runner makes the same address. If the body fails, what it wrote goes, but for scratch
        (`.work`) from which the stage can go on. If it is interrupted or killed, all stays.
        """
        hexadecimal = address.removeprefix("sha256:")
        staging = self.root / "staging" / hexadecimal
        with (self.root / "locks" / f"{hexadecimal}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            staging.mkdir(exist_ok=True)
            try:
                yield staging
            except Exception:
                _remove_but_scratch(staging)
                raise

    def seal(self, staging: Path, manifest: Manifest) -> Artifact:
        """Makes the artifact of what lies in `staging`: hashes and fsyncs the files, writes the manifest, renames.

        `manifest.files` is filled in here.

        Raises:
            KibanError: if the address is there already with other bytes (nothing is overwritten), or the disk is full.
        """
        shutil.rmtree(staging / WORK, ignore_errors=True)
        files = {}
        for name in _files_below(staging):
            path = staging / name
            with path.open("rb") as file:
                os.fsync(file.fileno())
            files[name] = FileRecord(sha256=sha256_file(path), bytes=path.stat().st_size)
        files.pop(MANIFEST, None)
        manifest = manifest.model_copy(update={"files": files})
        folder = self._folder(manifest.kind, manifest.address)
        if (folder / MANIFEST).exists():
            standing = read_artifact(folder)
            if standing.manifest.files != files:
                names = set(files) | set(standing.manifest.files)
                differing = sorted(name for name in names if files.get(name) != standing.manifest.files.get(name))
                raise KibanError(
                    f"{manifest.name}: made again with other bytes ({differing[0]}) at the same address; the first one "
                    f"stands in {folder}, the second in {staging}: the stage is not reproducible here"
                )
            shutil.rmtree(staging)
            return standing
        write_json(staging / MANIFEST, manifest.model_dump(mode="json", by_alias=True))
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging.rename(folder)
        fsync_folder(folder.parent)
        artifact = read_artifact(folder)
        write_atomic(folder.with_suffix(".sha256"), artifact.manifest_digest + "\n")
        if self._remote is not None:
            self._upload(artifact)
        return artifact

    # The remote copy

    def _remote_folder(self, kind: str, address: str) -> str:
        assert self._remote is not None
        return f"{self._remote[1]}/artifacts/{kind}/{address.removeprefix('sha256:')}"

    def _upload(self, artifact: Artifact) -> None:
        assert self._remote is not None
        filesystem = self._remote[0]
        there = self._remote_folder(artifact.kind, artifact.address)
        if filesystem.exists(f"{there}/{MANIFEST}"):
            standing = Manifest.model_validate_json(filesystem.cat_file(f"{there}/{MANIFEST}"))
            if standing.files != artifact.manifest.files:
                raise KibanError(f"{artifact.name}: the remote store holds other bytes at the same address ({there})")
            return
        for name in [*artifact.manifest.files, MANIFEST]:
            filesystem.makedirs(f"{there}/{name}".rsplit("/", 1)[0], exist_ok=True)
            filesystem.put_file(str(artifact.path / name), f"{there}/{name}")

    def _fetch(self, kind: str, address: str) -> bool:
        assert self._remote is not None
        filesystem = self._remote[0]
        there = self._remote_folder(kind, address)
        if not filesystem.exists(f"{there}/{MANIFEST}"):
            return False
        content = filesystem.cat_file(f"{there}/{MANIFEST}")
        manifest = Manifest.model_validate_json(content)
        with self.making(address) as staging:
            for name, record in manifest.files.items():
                path = staging / name
                path.parent.mkdir(parents=True, exist_ok=True)
                filesystem.get_file(f"{there}/{name}", str(path))
                if sha256_file(path) != record.sha256:
                    raise KibanError(
                        f"{there}/{name}: the bytes are not those that were sealed; restore the remote store"
                    )
            write_atomic(staging / MANIFEST, content)
            folder = self._folder(kind, address)
            folder.parent.mkdir(parents=True, exist_ok=True)
            staging.rename(folder)
            write_atomic(folder.with_suffix(".sha256"), sha256_bytes(content) + "\n")
        return True


def open_store(location: str, base: Path) -> Store:
    """The store that `store = location` in a kiban.toml in `base` means: a folder, or any fsspec URL."""
    if "://" in location and not location.startswith("file://"):
        return Store(base / ".kiban", remote=location)
    return Store(base / Path(location.removeprefix("file://")).expanduser())


def _remove_but_scratch(staging: Path) -> None:
    if not (staging / WORK).exists():
        shutil.rmtree(staging, ignore_errors=True)
        return
    for path in staging.iterdir():
        if path.is_dir() and path.name != WORK:
            shutil.rmtree(path, ignore_errors=True)
        elif not path.is_dir():
            path.unlink()


def disk_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _open_remote(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise KibanError(f"store '{url}': cannot be opened ({error}); install the fsspec driver it names") from None
    return filesystem, path.rstrip("/")


def _files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
