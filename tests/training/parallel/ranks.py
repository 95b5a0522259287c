"""Real processes that speak gloo, each with one thread. A fork server imports torch once for all of them."""

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["torch", "kiban.training.pipeline", "tests.training.parallel.ranks"])
TIMEOUT = 300


def on_ranks(number: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(*arguments)` gives on each of so many ranks."""
    with tempfile.TemporaryDirectory() as folder:
        ends = [_PROCESSES.Pipe(duplex=False) for _ in range(number)]
        processes = [
            _PROCESSES.Process(target=_rank, args=(rank, number, folder, ends[rank][1], work, arguments))
            for rank in range(number)
        ]
        try:
            for process in processes:
                process.start()
            found = []
            for rank, (receiver, _) in enumerate(ends):
                ready = wait([receiver, *(process.sentinel for process in processes[rank:])], TIMEOUT)
                assert receiver in ready or receiver.poll(5), "a rank died, or does not answer"
                error, value = receiver.recv()
                assert not error, error
                found.append(value)
            for process in processes:
                process.join(TIMEOUT)
        finally:
            for process in processes:
                process.kill()
    return found


def _rank(
    rank: int, number: int, folder: str, answer: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=number)
        answer.send((None, work(*arguments)))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:  # torch.distributed.checkpoint raises those
        answer.send((f"rank {rank}: {traceback.format_exc()}", None))
