"""Where the figures of a run go beside its log: TensorBoard's event files, and modules with wandb's calls.

Training never depends on them: a tracker that fails in mid-run is named once and dropped.
"""

import importlib
import importlib.util
import inspect
import os
import re
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Protocol

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import write_atomic

# Kiban opens no connection that the user did not ask for. Whoever sets these is followed.
OFFLINE = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "SWANLAB_MODE": "offline"}

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL", re.IGNORECASE)


class Tracker(Protocol):
    def log(self, record: dict[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class Trackers:
    """The trackers of a run, by name. A context: they are closed with it."""

    def __init__(self, trackers: Mapping[str, Tracker], say: Callable[[str], None]) -> None:
        self._trackers, self._say = dict(trackers), say

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Hands on the numbers in `record`, without the step."""
        numbers = {k: v for k, v in record.items() if isinstance(v, int | float) and k != "step"}
        for name, tracker in list(self._trackers.items()):
            try:
                tracker.log(numbers, step)
            except Exception as error:  # whatever it is: it must not end the run
                self._say(f"{name}: {reason(error)}; it gets no more figures, training goes on")
                del self._trackers[name]

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name, tracker in self._trackers.items():
            try:
                tracker.close()
            except Exception as failure:
                self._say(f"{name}: {reason(failure)}; its last figures may be missing")


class TensorBoard:
    """An event file in `folder`, written as the figures come; it goes on after the first `steps` steps.

    Points after those that an interrupted run left are purged by a mark that TensorBoard honours on reading.

    Raises:
        KibanError: if the package is missing.
        OSError: if the folder cannot be written.
    """

    # tensorboardX's SummaryWriter is not used, only its messages: it writes in a thread, and once that thread has met
    # an error (a full disk), its bounded queue blocks the caller for ever. What it buffers is also lost to a kill.

    def __init__(self, folder: Path, steps: int) -> None:
        try:
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.proto.summary_pb2 import Summary
            from tensorboardX.record_writer import masked_crc32c
        except ImportError:
            raise KibanError("TensorBoard: tensorboardX is missing; pip install 'kiban[tensorboard]'") from None
        self._Event, self._Summary, self._checksum = Event, Summary, masked_crc32c
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"events.out.tfevents.{time.time_ns()}").open("xb")  # read in the order of names
        self._write(file_version="brain.Event:2")
        if steps:
            self._write(step=steps + 1, session_log=SessionLog(status=SessionLog.START))

    def log(self, record: dict[str, float], step: int) -> None:
        values = [self._Summary.Value(tag=f"training/{name}", simple_value=value) for name, value in record.items()]
        self._write(step=step, summary=self._Summary(value=values))

    def close(self) -> None:
        self._file.close()

    def _write(self, **content: Any) -> None:
        """A TFRecord: the length and the event, each with its checksum."""
        event: bytes = self._Event(wall_time=time.time(), **content).SerializeToString()
        length = struct.pack("<Q", len(event))
        sums = [struct.pack("<I", self._checksum(part)) for part in (length, event)]
        self._file.write(length + sums[0] + event + sums[1])
        self._file.flush()


class Plug:
    """A module with wandb's calls: `init(...)` gives a run with `log(dict, step=)` and `finish()`.

    `init` gets those of project, name, dir, config, id and resume that it takes. The run's `id`, where it has one, is
    kept in `folder`, so that a training that goes on is shown as one run.

    Raises:
        KibanError: if there is no such module, it lacks those calls, or its `init` fails.
    """

    def __init__(self, module: str, name: str, folder: Path, config: dict[str, Any], steps: int) -> None:
        for variable, value in OFFLINE.items():
            os.environ.setdefault(variable, value)
        plug = load(module)
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / f"{plug.__name__}.id"
        known = kept.read_text(encoding="utf-8").strip() if steps and kept.exists() else None
        arguments = {
            "project": "kiban",
            "name": name,
            "dir": str(folder),
            "config": config,
            "id": known,
            "resume": "allow" if steps else "never",
        }
        try:
            self._run = plug.init(**_taken(plug.init, {k: v for k, v in arguments.items() if v is not None}))
        except Exception as error:
            raise KibanError(
                f"--tracker {module}: its init failed ({reason(error)}); mend that, or leave it out"
            ) from None
        if not (callable(getattr(self._run, "log", None)) and callable(getattr(self._run, "finish", None))):
            raise KibanError(f"--tracker {module}: its init gives no run with log and finish, as wandb's does")
        given = getattr(self._run, "id", None)
        if isinstance(given, str) and given:
            write_atomic(kept, given + "\n")

    def log(self, record: dict[str, float], step: int) -> None:
        self._run.log(record, step=step)

    def close(self) -> None:
        self._run.finish()


def load(module: str) -> ModuleType:
    """The module of that name, or the Python file at that path.

    Raises:
        KibanError: if there is none, it cannot be imported, or it has no `init`.
    """
    try:
        if module.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(module).stem, module)
            assert spec is not None and spec.loader is not None
            plug = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(plug)
        else:
            plug = importlib.import_module(module)
    except FileNotFoundError:
        raise KibanError(f"--tracker {module}: there is no such file") from None
    except ModuleNotFoundError as error:
        raise KibanError(
            f"--tracker {module}: there is no module {error.name}; install it, or give a .py file with wandb's calls"
        ) from None
    except Exception as error:
        raise KibanError(f"--tracker {module}: cannot be imported ({reason(error)})") from None
    if not callable(getattr(plug, "init", None)):
        raise KibanError(
            f"--tracker {module}: has no init; it must have wandb's calls: init, and a run's log and finish"
        )
    return plug


def reason(error: BaseException) -> str:
    """What happened, in one short line, without the secrets that the environment holds."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    for variable, value in os.environ.items():
        if _SECRET.search(variable) and len(value) >= 6:
            text = text.replace(value, "***")
    text = re.sub(r"//[^/@\s]+@", "//***@", text)  # https://user:password@host
    line = " ".join(text.split())
    return f"{type(error).__name__}: {line[:200]}" if line else type(error).__name__


def _taken(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # not written in Python
        return arguments
    if "log_dir" in parameters and "dir" not in parameters:  # swanlab's word for it
        arguments = {"log_dir" if name == "dir" else name: value for name, value in arguments.items()}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in parameters}
