"""A trace of a few training steps, which Perfetto (ui.perfetto.dev) and chrome://tracing open."""

import errno
import gzip
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from kiban.artifacts.files import fsync_folder


class Profiler:
    """Call `step` after each training step. Once the trace is written, or without a path, it does nothing."""

    def __init__(self) -> None:
        self._running: profile | None = None
        self._met = False  # the first step that is recorded

    def step(self) -> None:
        if self._running is not None:
            self._running.step()
            if self._met:
                self._stop()

    def _stop(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None  # and with it what it recorded, which is large


@contextmanager
def profiled(
    path: Path | None, say: Callable[[str], None], first: int = 3, steps: int = 3, stacks: bool = False
) -> Iterator[Profiler]:
    """Records `steps` steps from the `first` on (at least 3; counted from here, so after a resume too), with shapes,
    memory and, with `stacks`, Python's call stacks. With path None nothing is recorded.

    `path` (.json, or .json.gz) is whole or absent. If the run ends before, the steps that were recorded are written. A
    trace that cannot be written is said, and training goes on.
    """
    profiler = Profiler()
    if path is None:
        yield profiler
        return
    assert first >= 3 and steps >= 1  # a step to begin with, and one that bears the profiler's own start

    def write(done: profile) -> None:
        profiler._met = True
        try:
            _export(done, path)
            say(f"profile: {path}; open it in ui.perfetto.dev")
        except OSError as error:
            say(f"profile: {path} cannot be written ({error.strerror}); training goes on without it")

    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else it writes to stderr, across the live view, that it began
    cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    profiler._running = profile(
        activities=[ProfilerActivity.CPU, *cuda],
        schedule=schedule(wait=first - 2, warmup=1, active=steps, repeat=1),
        on_trace_ready=write,
        record_shapes=True,
        profile_memory=True,
        with_stack=stacks,
    )
    profiler._running.start()
    try:
        yield profiler
    finally:
        profiler._stop()
        if not profiler._met:
            say(f"profile: the run ended before its step {first}; there is no trace")


def _export(done: profile, path: Path) -> None:
    """By way of a folder beside the target, so that an error leaves nothing there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".profile.") as folder:
        plain, packed = Path(folder, "trace.json"), Path(folder, "trace.json.gz")
        done.export_chrome_trace(str(plain))
        _check_whole(plain)
        if path.suffix == ".gz":
            with plain.open("rb") as source, gzip.open(packed, "wb", compresslevel=4) as target:
                shutil.copyfileobj(source, target)
        made = packed if path.suffix == ".gz" else plain
        with made.open("rb") as file:
            os.fsync(file.fileno())
        made.replace(path)
    fsync_folder(path.parent)


def _check_whole(trace: Path) -> None:
    """torch does not tell when the disk was full: there is no file then, or a part of one."""
    if trace.exists():
        with trace.open("rb") as file:
            file.seek(max(0, trace.stat().st_size - 16))
            if file.read().rstrip().endswith(b"}"):
                return
    raise OSError(errno.EIO, "torch wrote no whole trace; is the disk full?", str(trace))
