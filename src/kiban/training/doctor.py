"""Checks before a run: of each machine (`environment.py`), and of what lies between the ranks.

    torchrun --nproc-per-node 8 -m kiban.training.doctor --store .kiban

Rank 0 prints one line a check, and exits with 1 if one fails. Backend: NCCL where all ranks have a GPU, else gloo.
"""

import argparse
import itertools
import json
import os
import socket
import statistics
import sys
import time
import uuid
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from kiban.training.environment import Check, Status, machine_checks, worst
from kiban.training.flops import matmul_rate

CLOCK_WARN, CLOCK_FAIL = 0.1, 1.0  # s between ranks: logs out of order; leases and tokens that run out too soon
SLOW = 0.75  # of the median rank's or link's rate
SENDS = 10
BYTES = {"gloo": 16 << 20, "nccl": 256 << 20}
TIMEOUT = timedelta(minutes=5)

_calls = itertools.count()  # of `_gathered`, which all ranks call in the same order


def table(checks: list[Check]) -> str:
    """One line a check. Machines with the same finding share it."""
    lines: dict[tuple[str, str, str, str], list[str]] = {}
    for check in checks:
        lines.setdefault((check.name, check.status, check.found, check.remedy), []).append(check.host)
    several = len({check.host for check in checks if check.host}) > 1
    out = []
    for (name, status, found, remedy), hosts in lines.items():
        where = f" [{', '.join(hosts)}]" if several and hosts[0] else ""
        out.append(f"{status:4}  {name:14}{found}{where}{'; ' + remedy if remedy and status != 'ok' else ''}")
    return "\n".join(out)


def rank_checks(store: Path) -> list[Check]:
    """What lies between the ranks, measured by all of them together. Rank 0's list is whole."""
    rank, world, backend = dist.get_rank(), dist.get_world_size(), dist.get_backend()
    device = torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else torch.device("cpu")
    versions = _gathered((sys.version.split()[0], torch.__version__, torch.version.cuda))
    names = [f"rank {r} ({host})" for r, host in enumerate(_gathered(socket.gethostname()))]
    rates = _gathered(matmul_rate(device, torch.bfloat16 if backend == "nccl" else torch.float32, seconds=0.3))
    checks = [
        _ranks(world, backend, versions, names),
        _shared_store(store),
        _clocks(device, names),
        _evenness("compute", "FLOP/s", rates, names),
    ]
    if world > 1:
        checks += [_latency(device), _all_reduce(device, BYTES[backend]), _links(device, BYTES[backend] // 4, names)]
    return checks if rank == 0 else []


def _gathered(value: Any) -> list[Any]:
    """`value` of all ranks, by way of the rendezvous store, so that no pickle is needed."""
    store, rank, world = dist.distributed_c10d._get_default_store(), dist.get_rank(), dist.get_world_size()
    call = next(_calls)
    store.set(f"doctor/{call}/{rank}", json.dumps(value))
    return [json.loads(store.get(f"doctor/{call}/{other}")) for other in range(world)]


def _ranks(world: int, backend: str, versions: list[Any], names: list[str]) -> Check:
    different = [name for name, version in zip(names, versions, strict=True) if version != versions[0]]
    if different:
        found = f"{different[0]} has Python, torch, CUDA {versions[names.index(different[0])]}, rank 0 {versions[0]}"
        return Check("ranks", "fail", found, "install the same everywhere, or use one image")
    return Check("ranks", "ok", f"{world} over {backend}, all with the same Python, torch and CUDA")


def _shared_store(store: Path) -> Check:
    """A file that rank 0 writes, and all others should see: checkpoints are in parts, one from each rank."""
    token = f".kiban-doctor.{uuid.uuid4().hex}"
    rank = dist.get_rank()
    name = _gathered(token)[0]
    file = store / name
    error = ""
    try:
        if rank == 0:
            store.mkdir(parents=True, exist_ok=True)
            file.write_text("here")
    except OSError as failed:
        error = str(failed.strerror)
    _gathered("written")
    seen = False
    deadline = time.monotonic() + 5  # a network's file system may show it a little later
    while not seen and not error and time.monotonic() < deadline:
        seen = file.is_file()
        time.sleep(0 if seen else 0.2)
    without = [str(other) for other, sees in enumerate(_gathered(seen)) if not sees]
    if rank == 0:
        file.unlink(missing_ok=True)
    if without:
        why = (
            f"rank 0 cannot write it ({error})"
            if error
            else f"ranks {', '.join(without[:8])} do not see rank 0's files"
        )
        return Check("store", "fail", f"{store}: {why}", "give --store a folder that all machines mount")
    return Check("store", "ok", f"{store}: the same for all ranks")


def _clocks(device: torch.device, names: list[str]) -> Check:
    """Offsets from rank 0's clock, as NTP takes them: of several exchanges the quickest, whose middle is compared."""
    offsets: list[float] = [0.0]
    for other in range(1, dist.get_world_size()):
        best, offset = float("inf"), 0.0
        for _ in range(SENDS):
            message = torch.zeros(1, dtype=torch.float64, device=device)
            if dist.get_rank() == 0:
                began = time.time()
                dist.send(message, other)
                dist.recv(message, other)
                taken = time.time() - began
                if taken < best:
                    best, offset = taken, float(message) - began - taken / 2
            elif dist.get_rank() == other:
                dist.recv(message, 0)
                message[0] = time.time()
                dist.send(message, 0)
        offsets.append(offset)
    worst_rank = max(range(len(offsets)), key=lambda r: abs(offsets[r]))
    apart = abs(offsets[worst_rank])
    found = f"at most {1e3 * apart:.2f} ms from rank 0's"
    if apart > CLOCK_WARN:
        status: Status = "fail" if apart > CLOCK_FAIL else "warn"
        return Check(
            "clocks", status, f"{names[worst_rank]}: {1e3 * apart:.0f} ms from rank 0's", "start chronyd there"
        )
    return Check("clocks", "ok", found)


def _evenness(name: str, unit: str, rates: list[float], names: list[str]) -> Check:
    middle, slowest = statistics.median(rates), min(range(len(rates)), key=lambda index: rates[index])
    found = f"{_short(middle)}{unit} in the median, {_short(rates[slowest])}{unit} at least"
    if rates[slowest] < SLOW * middle:
        remedy = "all wait for it: look at its clock rate, heat and neighbours, or leave it out"
        return Check(name, "warn", f"{found}: {names[slowest]}", remedy)
    return Check(name, "ok", found)


def _latency(device: torch.device) -> Check:
    one = torch.ones(1, device=device)
    taken = sorted(_timed(lambda: dist.all_reduce(one), device) for _ in range(5 * SENDS))
    return Check("latency", "ok", f"all_reduce of one number in {1e6 * statistics.median(taken):.0f} us")


def _all_reduce(device: torch.device, size: int) -> Check:
    """Bus bandwidth, 2 (n - 1) / n x bytes / time, which does not depend on the number of ranks (nccl-tests)."""
    world = dist.get_world_size()
    values = torch.ones(size // 4, device=device)
    dist.all_reduce(values)
    if not bool((values == world).all()):
        return Check("all_reduce", "fail", "the sum is wrong", "look at the network's errors, and leave its card out")
    taken = statistics.median(_timed(lambda: dist.all_reduce(values), device) for _ in range(SENDS))
    rate = 2 * (world - 1) / world * size / taken
    return Check("all_reduce", "ok", f"{_short(rate)}B/s of {size >> 20} MiB on the bus")


def _links(device: torch.device, size: int, names: list[str]) -> Check:
    """From each rank to the next, all others silent: a slow card or cable shows as one slow link."""
    rank, world = dist.get_rank(), dist.get_world_size()
    values = torch.ones(size // 4, device=device)
    rates = []
    for sender in range(world):
        receiver = (sender + 1) % world
        best = float("inf")
        for _ in range(4):
            dist.barrier()
            if rank in (sender, receiver):
                began = time.perf_counter()
                (dist.send if rank == sender else dist.recv)(values, receiver if rank == sender else sender)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                best = min(best, time.perf_counter() - began)
        rates.append(size / max(_gathered(best if rank == receiver else 0.0)))
    return _evenness("links", "B/s", rates, [f"{names[r]} to {names[(r + 1) % world]}" for r in range(world)])


def _timed(work: Any, device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _short(value: float) -> str:
    for unit in ("", "k", "M", "G"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} T"


def main() -> None:
    """Run by torchrun, on every rank."""
    parser = argparse.ArgumentParser(prog="torchrun -m kiban.training.doctor", description=__doc__)
    parser.add_argument("--store", type=Path, default=Path(".kiban"), help="where checkpoints will go")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--offline", action="store_true", help="fail where a way leads out of the machine")
    arguments = parser.parse_args()
    local, here = (int(os.environ.get(name, value)) for name, value in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")))
    backend = "nccl" if torch.cuda.is_available() and torch.cuda.device_count() >= here else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(local)
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        of_machine = machine_checks(arguments.store, here, arguments.offline) if local == 0 else []
        machines = _gathered([asdict(check) for check in of_machine])
        checks = [Check(**check) for machine in machines for check in machine] + rank_checks(arguments.store)
        verdict = _gathered(worst(checks))[0]
        if dist.get_rank() == 0:
            as_json = {"status": verdict, "checks": [asdict(check) for check in checks]}
            print(json.dumps(as_json, indent=1) if arguments.json else table(checks), flush=True)
    finally:
        dist.destroy_process_group()
    sys.exit(1 if verdict == "fail" and int(os.environ.get("RANK", "0")) == 0 else 0)


if __name__ == "__main__":
    main()
