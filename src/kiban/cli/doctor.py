"""`kiban doctor`: whether this machine, or several processes on it, are fit to train."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kiban.artifacts.errors import KibanError

if TYPE_CHECKING:
    from kiban.training.environment import Check


def doctor(
    store: Annotated[Path, typer.Option(help="Where checkpoints will go.")] = Path(".kiban"),
    processes: Annotated[
        int, typer.Option(min=1, help="Ranks on this machine; with more than 1, what lies between them is measured.")
    ] = 1,
    offline: Annotated[bool, typer.Option("--offline", help="Fail where a way leads out of this machine.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Checks the machine before a run: versions, GPUs, disks, memory, limits. Exit code 1 if something fails.

    Example: kiban doctor --store .kiban --processes 2
    """
    from kiban.cli.show import print_json
    from kiban.training.doctor import table
    from kiban.training.environment import machine_checks, worst

    checks = _of_ranks(store, processes, offline) if processes > 1 else machine_checks(store, offline=offline)
    status = worst(checks)
    if as_json:
        print_json({"status": status, "checks": [asdict(check) for check in checks]})
    else:
        print(table(checks))
    raise typer.Exit(1 if status == "fail" else 0)


def _of_ranks(store: Path, processes: int, offline: bool) -> "list[Check]":
    """Raises KibanError if the ranks do not come as far as a verdict."""
    from kiban.training.environment import Check, usable_cores

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "kiban.training.doctor", "--json", "--store", str(store), *(["--offline"] if offline else [])]
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, int(usable_cores()) // processes)))
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": threads}, capture_output=True, text=True)
    if not done.stdout.strip():
        said = [line for line in done.stderr.splitlines() if "Error" in line] or ["they ended without a word"]
        raise KibanError(f"--processes {processes}: the ranks failed before their verdict: {said[-1].strip()[:300]}")
    return [Check(**check) for check in json.loads(done.stdout)["checks"]]
