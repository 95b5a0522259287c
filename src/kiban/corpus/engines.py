"""Where work runs: in this process (`serial`), on worker processes of this machine (`process`), or on a Ray cluster
(`ray`, from `kiban[ray]`) whose nodes see the same folders. What is run writes its result to a folder by itself, so all
of them give the same bytes; the order in which work is given is the order in which it is reported as done."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Literal, TypeVarTuple

from kiban.artifacts.errors import KibanError

EngineName = Literal["serial", "process", "ray"]
Ts = TypeVarTuple("Ts")


class WorkerLost(KibanError):
    """A worker was ended from outside. What is finished is kept: the same run again goes on."""


@dataclass(frozen=True)
class Engine:
    """`submit` begins `function(*arguments)` and gives what `wait` waits for. No more than `most` are under way: with
    what one of them holds, that is what bounds the memory."""

    submit: Callable[..., Any]
    wait: Callable[[Any], Any]
    most: int

    def run(self, function: Callable[[*Ts], None], work: Iterable[tuple[*Ts]]) -> Iterator[tuple[*Ts]]:
        """Runs `function(*arguments)` for each of `work`, and gives the arguments back when it is done, in order."""
        running: deque[tuple[tuple[*Ts], Any]] = deque()
        for arguments in work:
            running.append((arguments, self.submit(function, *arguments)))
            if len(running) >= self.most:
                arguments, future = running.popleft()
                self.wait(future)
                yield arguments
        while running:
            arguments, future = running.popleft()
            self.wait(future)
            yield arguments


@contextmanager
def engine(name: EngineName, workers: int) -> Iterator[Engine]:
    """The engine of that name with so many workers.

    Raises:
        KibanError: if Ray is not installed or its cluster cannot be reached.
        WorkerLost: if a worker is ended from outside.
    """
    if name == "serial":
        yield Engine(lambda function, *arguments: function(*arguments), lambda done: None, 1)
    elif name == "process":
        try:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                yield Engine(pool.submit, lambda future: future.result(), 2 * workers + 1)
        except BrokenProcessPool:
            raise WorkerLost(
                f"[corpus]: one of {workers} worker processes was ended from outside, perhaps for want of memory; "
                "run again with fewer `workers`: finished pieces are kept"
            ) from None
    else:
        with _ray(workers) as found:
            yield found


@contextmanager
def _ray(workers: int) -> Iterator[Engine]:
    """On the cluster that RAY_ADDRESS names, or on one that lives as long as this run."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray would report its use to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the next version's default, which it asks for
    try:
        import ray
    except ImportError:
        raise KibanError("[corpus] engine = \"ray\" needs Ray; pip install 'kiban[ray]'") from None
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"address": address} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise KibanError(f"[corpus] engine: Ray does not start ({error}); see RAY_ADDRESS, or use `process`") from None
    remote: dict[Any, Any] = {}

    def submit(function: Callable[..., None], *arguments: Any) -> Any:
        if function not in remote:
            remote[function] = ray.remote(num_cpus=1)(function)
        return remote[function].remote(*arguments)

    try:
        yield Engine(submit, ray.get, 2 * workers + 1)
    except ray.exceptions.RayTaskError as error:
        raise KibanError(f"[corpus]: a worker failed: {error.cause or error}") from error
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise WorkerLost(
            f"[corpus]: a worker of Ray was ended from outside ({type(error).__name__}); run again with fewer "
            "`workers`: finished pieces are kept"
        ) from None
    finally:
        ray.shutdown()
