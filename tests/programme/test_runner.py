"""The runner with small real stages: what is missing is made, nothing else, and whatever happens nothing is lost."""

import datetime
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from pydantic import Field

from kiban.artifacts.errors import KibanError
from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import Progress
from kiban.artifacts.rights import Rights
from kiban.artifacts.stage import Outcome, Settings, stage
from kiban.artifacts.store import Artifact, Store
from kiban.programme.runner import Node, explain, make, plan

QUIET = Progress(quiet=True)


class SourceSettings(Settings):
    path: str = Field(exclude=True)
    terms: Rights = Rights()


class CountSettings(Settings):
    times: int = 1
    workers: int = Field(1, exclude=True)
    pause: float = Field(0.0, exclude=True)
    megabytes: float = 0.0


@stage("source", external=lambda s: [Path(s.path)], rights=lambda s: s.terms)
def source(settings: SourceSettings, out: Path, progress: Progress) -> Outcome:
    (out / "copy.txt").write_text(Path(settings.path).read_text())
    return Outcome()


@stage("count", inputs=("sources",), use="pretrain")
def count(settings: CountSettings, sources: list[Artifact], out: Path, progress: Progress) -> Outcome:
    work = out / ".work"
    work.mkdir(exist_ok=True)
    runs = work / "runs"
    runs.write_text(str(int(runs.read_text()) + 1) if runs.exists() else "1")
    time.sleep(settings.pause)
    (out / "filler").write_bytes(os.urandom(int(settings.megabytes * 1e6)))
    total = settings.times * sum(len((artifact.path / "copy.txt").read_text()) for artifact in sources)
    (out / "total").write_text(str(total))
    return Outcome({"count.total": Metric(value=total, unit="characters")})


@stage("double", inputs=("count",))
def double(settings: Settings, count: Artifact, out: Path, progress: Progress) -> Outcome:
    (out / "total").write_text(str(2 * count.metrics["count.total"].value))
    return Outcome()


def graph(folder: Path, terms: Rights | None = None, **settings: float) -> list[Node]:
    for name in ("a", "b"):
        if not (folder / name).exists():
            (folder / name).write_text(name * 10)
    sources = [
        Node("source.a", source, SourceSettings(path=str(folder / "a")), {}),
        Node("source.b", source, SourceSettings(path=str(folder / "b"), terms=terms or Rights()), {}),
    ]
    return [
        *sources,
        Node("count", count, CountSettings(**settings), {"sources": ("source.a", "source.b")}),
        Node("double", double, Settings(), {"count": "count"}),
    ]


def run(folder: Path, store: Store, **settings: float) -> tuple[list[str], list[Artifact]]:
    """The names of what was made, and all artifacts."""
    steps = plan(graph(folder, **settings), store)
    missing = [step.node.name for step in steps if step.artifact is None]
    return missing, make("test", steps, store, QUIET)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_is_missing_is_made_and_nothing_else(tmp_path: Path, store: Store) -> None:
    assert run(tmp_path, store)[0] == ["source.a", "source.b", "count", "double"]
    made, artifacts = run(tmp_path, store)
    assert made == []
    assert (artifacts[-1].path / "total").read_text() == "40.0"
    assert artifacts[2].manifest.inputs == {"sources.a": artifacts[0].address, "sources.b": artifacts[1].address}
    assert run(tmp_path, store, times=2)[0] == ["count", "double"]
    assert run(tmp_path, store, times=2, workers=4)[0] == []  # how it is made is not what it is
    shutil.rmtree(artifacts[-1].path)
    assert run(tmp_path, store)[0] == ["double"]


def test_a_changed_file_under_the_same_path_makes_its_stages_run_again(tmp_path: Path, store: Store) -> None:
    run(tmp_path, store)
    (tmp_path / "a").write_text("A much longer text than before")
    assert run(tmp_path, store)[0] == ["source.a", "count", "double"]
    os.utime(tmp_path / "a", (1, 1))  # touched, not changed
    assert run(tmp_path, store)[0] == []


def test_explain_names_the_reason(tmp_path: Path, store: Store) -> None:
    run(tmp_path, store)
    reasons = dict(explain(plan(graph(tmp_path, times=3), store), store))
    assert reasons["source.a"].startswith("made 2")
    assert reasons["count"] == "will be made: setting 'times' was 1 and is 3"
    assert reasons["double"] == "will be made: count will be made anew"
    (tmp_path / "b").write_text("other")
    assert dict(explain(plan(graph(tmp_path), store), store))["source.b"] == "will be made: the file b changed"


def test_a_missing_file_is_named(tmp_path: Path, store: Store) -> None:
    nodes = graph(tmp_path)
    (tmp_path / "a").unlink()
    with pytest.raises(KibanError, match=r"/a: cannot be read \(No such file"):
        plan(nodes, store)


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        (Rights(uses=frozenset({"evaluate"})), "it grants evaluate"),
        (Rights(expires=datetime.date(2020, 1, 1)), "its rights expired on 2020-01-01"),
    ],
)
def test_a_use_that_is_not_granted_is_refused_before_anything_runs(
    tmp_path: Path, store: Store, terms: Rights, reason: str
) -> None:
    with pytest.raises(KibanError, match=f"count: needs the use 'pretrain', which source.b does not grant .{reason}"):
        plan(graph(tmp_path, terms=terms), store)
    assert not store.all()


def test_rights_are_met_on_the_way(tmp_path: Path, store: Store) -> None:
    terms = Rights(uses=frozenset({"pretrain", "serve"}), obligations=frozenset({"no-identification"}))
    steps = plan(graph(tmp_path, terms=terms), store)
    assert make("test", steps, store, QUIET)[-1].rights == terms


def test_a_damaged_input_is_not_used(tmp_path: Path, store: Store) -> None:
    _, artifacts = run(tmp_path, store)
    shutil.rmtree(artifacts[2].path)
    path = artifacts[0].path / "copy.txt"
    path.write_text("b" + path.read_text()[1:])
    with pytest.raises(KibanError, match="copy.txt: the bytes are not those that were sealed"):
        run(tmp_path, store)


def _run_slowly(folder: str) -> None:
    run(Path(folder), Store(Path(folder) / "store"), pause=30.0)


def test_a_killed_run_goes_on_from_its_scratch(tmp_path: Path, store: Store) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_run_slowly, args=(str(tmp_path),))
    process.start()
    deadline = time.monotonic() + 30
    while not list(store.root.glob("staging/*/.work/runs")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    scratch = next(iter(store.root.glob("staging/*/.work/runs")))
    assert scratch.read_text() == "1"
    made, artifacts = run(tmp_path, store)
    assert made == ["count", "double"]  # the sources were finished
    assert sorted(artifacts[2].manifest.files) == ["filler", "total"]
    for artifact in artifacts:
        artifact.check()


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A real file system of 3 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named_and_nothing_finished_is_lost(tmp_path: Path, small_disk: Path) -> None:
    store = Store(small_disk / "store")
    with pytest.raises(KibanError, match="count: the disk that holds .* is full; free some space"):
        run(tmp_path, store, megabytes=5)
    assert sorted(artifact.name for artifact in store.all()) == ["test/source.a", "test/source.b"]
    assert run(tmp_path, store, megabytes=1)[0] == ["count", "double"]
