"""The store on a real file system: whole or absent, damage is seen, two runners get on."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from kiban.artifacts.errors import KibanError
from kiban.artifacts.manifest import Code, Made, Manifest, address_of
from kiban.artifacts.rights import Rights
from kiban.artifacts.store import Store, open_store


def manifest(number: int = 0) -> Manifest:
    settings = {"number": number}
    return Manifest(
        schema=1,
        kind="thing",
        address=address_of("thing/1", settings, {}, {}),
        name="programme/thing",
        inputs={},
        settings=settings,
        code=Code(kiban="0", stage="thing/1"),
        rights=Rights(),
        files={},
        metrics={},
        made=Made(at="2026-01-01T00:00:00Z", seconds=0.0, peak_bytes=0, hardware="test"),
    )


def make(store: Store, number: int = 0, content: str = "text") -> Path:
    record = manifest(number)
    with store.making(record.address) as out:
        (out / "folder").mkdir(exist_ok=True)
        (out / "folder" / "file.txt").write_text(content)
        return store.seal(out, record).path


def test_an_artifact_is_found_with_its_files_and_digest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = make(store)
    found = store.find("thing", manifest().address)
    assert found is not None and found.path == path
    assert (path / "folder" / "file.txt").read_text() == "text"
    assert path.with_suffix(".sha256").read_text().strip() == found.manifest_digest
    found.check()
    assert [artifact.address for artifact in store.all()] == [manifest().address]
    assert not list((tmp_path / "staging").iterdir())


def test_scratch_is_not_sealed_and_survives_a_failure(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = manifest()
    with pytest.raises(RuntimeError, match="stage failed"), store.making(record.address) as out:
        (out / ".work").mkdir()
        (out / ".work" / "state").write_text("half way")
        raise RuntimeError("stage failed")
    with store.making(record.address) as out:
        assert (out / ".work" / "state").read_text() == "half way"
        (out / "result").write_text("done")
        artifact = store.seal(out, record)
    assert sorted(artifact.manifest.files) == ["result"]
    assert not (artifact.path / ".work").exists()


def test_a_failure_without_scratch_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(KibanError), store.making(manifest().address) as out:
        (out / "half").write_text("written")
        raise KibanError("bad input")
    assert not list((tmp_path / "staging").iterdir()) and not store.all()


@pytest.mark.parametrize("which", ["folder/file.txt", "manifest.json"])
def test_any_flipped_byte_is_seen(tmp_path: Path, which: str) -> None:
    store = Store(tmp_path)
    path = make(store) / which
    original = path.read_bytes()
    artifact = store.find("thing", manifest().address)
    assert artifact is not None
    for position in range(len(original)):
        flipped = bytearray(original)
        flipped[position] ^= 1
        path.write_bytes(bytes(flipped))
        with pytest.raises(KibanError, match=r"not (the manifest|those) that"):
            artifact.check()
    path.write_bytes(original)
    artifact.check()


def test_missing_and_extra_files_are_seen(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = make(store)
    artifact = store.find("thing", manifest().address)
    assert artifact is not None
    (path / "extra").write_text("?")
    with pytest.raises(KibanError, match="extra: not part of the artifact"):
        artifact.check()
    (path / "extra").unlink()
    (path / "folder" / "file.txt").unlink()
    with pytest.raises(KibanError, match="missing"):
        store.find("thing", manifest().address)


def test_other_bytes_at_the_same_address_are_reported_not_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = make(store, content="first")
    assert make(store, content="first") == path
    with pytest.raises(KibanError, match="not reproducible"):
        make(store, content="other")
    assert (path / "folder" / "file.txt").read_text() == "first"


def _hold(root: str, started: "multiprocessing.synchronize.Event") -> None:
    with Store(Path(root)).making(manifest().address):
        started.set()
        time.sleep(60)


def test_a_killed_runner_frees_its_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path), started))
    holder.start()
    assert started.wait(30) and holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    make(Store(tmp_path))


def _make_many(root: str) -> None:
    store = Store(Path(root))
    for number in range(20):
        make(store, number)


def test_two_runners_make_the_same_things_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    runners = [context.Process(target=_make_many, args=(str(tmp_path),)) for _ in range(2)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    assert [runner.exitcode for runner in runners] == [0, 0]
    artifacts = Store(tmp_path).all()
    assert len(artifacts) == 20
    for artifact in artifacts:
        artifact.check()


def test_a_remote_store_is_filled_and_read_back(tmp_path: Path) -> None:
    remote = f"memory://{tmp_path.name}/store"
    make(open_store(remote, tmp_path / "here"))
    there = open_store(remote, tmp_path / "there")
    found = there.find("thing", manifest().address)
    assert found is not None and str(tmp_path / "there") in str(found.path)
    found.check()


def test_a_damaged_remote_file_is_refused(tmp_path: Path) -> None:
    import fsspec

    remote = f"memory://{tmp_path.name}/store"
    make(open_store(remote, tmp_path / "here"))
    filesystem = fsspec.filesystem("memory")
    name = next(path for path in filesystem.find(f"/{tmp_path.name}") if path.endswith("file.txt"))
    filesystem.pipe_file(name, b"tezt")
    with pytest.raises(KibanError, match="restore the remote store"):
        open_store(remote, tmp_path / "there").find("thing", manifest().address)


def test_a_store_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("a file where the store should be")
    with pytest.raises(KibanError, match="cannot be written to"):
        Store(blocker)
    with pytest.raises(KibanError, match="cannot be opened"):
        open_store("nosuchprotocol://bucket/path", tmp_path)


def test_a_manifest_of_another_version_is_named(tmp_path: Path) -> None:
    path = make(Store(tmp_path))
    content = json.loads((path / "manifest.json").read_text())
    content["novelty"] = 1
    (path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(KibanError, match="novelty.*another version"):
        Store(tmp_path).all()
