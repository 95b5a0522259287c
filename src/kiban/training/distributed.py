"""Several processes under torchrun: how they meet, agree, and find out who is missing.

What stops a run that hangs, from the quickest to the slowest:
1. a rank that dies closes its connections: the others fail at their next collective, within a second;
2. a rank that hangs: the collective that waits for it fails after `rank_timeout_seconds` of [training];
3. then the ranks that still answer say so in torchrun's store, and the one that does not is named;
4. torchrun stops all ranks that are left, and starts them anew, as many as there are, if `--max-restarts` allows.
"""

import os
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from kiban.artifacts.errors import KibanError

ANSWER_SECONDS = 3.0  # in which ranks that live have to say so


def started_by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank_of_torchrun() -> int:
    """0 in a process alone."""
    return int(os.environ.get("RANK", "0")) if started_by_torchrun() else 0


@contextmanager
def process_group(timeout_seconds: float) -> Iterator[torch.device]:
    """The group of the ranks that torchrun started; gives this rank's device.

    Raises:
        KibanError: when a rank is lost on the way, naming it.
    """
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=timeout_seconds)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # torchrun's store outlives a restart, and so do addresses of ranks that are gone: each start has its own keys.
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, timeout=timeout)  # type: ignore[attr-defined]
    start = f"kiban/{os.environ['TORCHELASTIC_RESTART_COUNT']}/{size}"
    own = dist.PrefixStore(start, store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=timeout)
    try:
        yield device
    except RuntimeError as error:
        where = _collective_of(error)
        if where is None:
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it when a rank dies: first say which
        raise KibanError(_missing(where)) from error
    dist.destroy_process_group()


def agree(*values: float) -> list[float]:
    """The largest of each over all ranks."""
    largest = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    found: list[float] = largest.tolist()
    return found


def ranks_with(flag: bool) -> list[int]:
    flags = [torch.zeros(1) for _ in range(dist.get_world_size())]
    dist.all_gather(flags, torch.tensor([float(flag)]))
    return [rank for rank, own in enumerate(flags) if own.item()]


def _collective_of(error: BaseException) -> str | None:
    """Which operation of torch.distributed failed; None if it was none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "torch/distributed" in frame.filename and frame.name != "wrapper":
            return frame.name
    return None


def _missing(where: str) -> str:
    """Says that this rank lives, and asks who does not."""
    rank, size = dist.get_rank(), dist.get_world_size()
    store = dist.distributed_c10d._get_default_store()
    try:
        store.set(f"lives/{rank}", where)
        time.sleep(ANSWER_SECONDS)
        lost = [str(other) for other in range(size) if not store.check([f"lives/{other}"])]
    except RuntimeError:
        return f"rank {rank}: {where} failed, and the store of torchrun does not answer; is its node lost?"
    if not lost:
        return f"rank {rank}: {where} failed, though all ranks answer; is the network between them broken?"
    return (
        f"rank {', '.join(lost)} does not answer: killed or hung; rank {rank} waited for it in {where}. "
        "The run goes on from its last checkpoint when it is started again (torchrun --max-restarts does that)"
    )
