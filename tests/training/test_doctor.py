"""`kiban doctor`, alone and between two real ranks, on machines that are well and on some that are not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kiban.training import environment
from kiban.training.doctor import table
from kiban.training.environment import Check, machine_checks, worst
from tests.commands import kiban_json

OF_MACHINE = {
    *("python", "torch", "cuda", "nccl", "threads", "memory", "shared memory", "open files", "locked memory"),
    *("disk space", "disk", "clock", "outside"),
}
OF_RANKS = {"ranks", "store", "clocks", "compute", "latency", "all_reduce", "links"}


def test_a_machine_is_checked_and_no_connection_is_opened(tmp_path: Path) -> None:
    """An audit hook ends the process at the first connect or name look-up."""
    program = (
        "import os, sys\n"
        "outward = ('socket.connect', 'socket.getaddrinfo')\n"
        "sys.addaudithook(lambda event, _: os._exit(77) if event in outward else None)\n"
        "from kiban.cli.main import main\n"
        f"sys.argv = ['kiban', 'doctor', '--json', '--store', {str(tmp_path / 'store')!r}]\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)
    checks = {check["name"]: check for check in found["checks"]}
    assert OF_MACHINE <= checks.keys()
    assert all(check["remedy"] for check in found["checks"] if check["status"] != "ok")
    assert (found["status"] == "fail") == (done.returncode == 1)
    assert checks["torch"]["found"] == torch.__version__ and "MB/s" in checks["disk"]["found"]
    assert list(tmp_path.iterdir()) == []  # nothing is left, and the store is not made


def test_two_ranks_are_measured(tmp_path: Path) -> None:
    found = kiban_json("doctor", "--processes", "2", "--json", "--store", tmp_path / "store", OMP_NUM_THREADS="1")
    checks = {check["name"]: check for check in found["checks"]}
    assert OF_MACHINE | OF_RANKS <= checks.keys()
    assert {checks[name]["status"] for name in ("ranks", "store", "clocks", "all_reduce")} == {"ok"}
    assert checks["ranks"]["found"].startswith("2 over ") and "B/s" in checks["links"]["found"]
    assert list((tmp_path / "store").iterdir()) == []


ILL = """
import os, sys, time
if os.environ["RANK"] == "1":
    clock = time.time
    time.time = lambda: clock() + 3.0            # its clock is ahead
    sys.argv[2] += "-elsewhere"                  # and it does not see rank 0's folder
    import torch
    torch.__version__ = "2.12.0"
from kiban.training.doctor import main
main()
"""


@pytest.mark.slow
def test_what_is_wrong_with_a_rank_is_named(tmp_path: Path) -> None:
    script = tmp_path / "ill.py"
    script.write_text(ILL)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script]
    done = subprocess.run(
        [*command, "--store", tmp_path / "store"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    lines = {line[6:].split("  ")[0].strip(): line for line in done.stdout.splitlines()}
    assert done.returncode != 0
    assert lines["clocks"].startswith("fail") and "rank 1" in lines["clocks"] and "chronyd" in lines["clocks"]
    assert 2900 < float(lines["clocks"].split(": ")[1].split(" ms")[0]) < 3100
    assert lines["store"].startswith("fail") and "ranks 1 do not see" in lines["store"]
    assert lines["ranks"].startswith("fail") and "2.12.0" in lines["ranks"]


def test_a_folder_that_cannot_be_written_and_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.disk_rate(Path("/proc/kiban")).status == "fail"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**8, total=10**7))
    assert environment.free_space(tmp_path).status == "fail"
    small = environment.shared_memory()
    assert small.status == "warn" and "--shm-size" in small.remedy


@pytest.mark.parametrize(
    ("driver", "built", "status", "said"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu",
            "13.0",
            "fail",
            "too old for torch's CUDA 13",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release", "13.0", "fail", "sees no GPU"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu", None, "fail", "torch is a CPU build"),
        ("", "12.8", "ok", "no GPU"),
    ],
)
def test_torch_cuda_and_driver_must_fit(
    driver: str, built: str | None, status: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(environment, "_read", lambda path: driver)
    check = environment.cuda()
    assert check.status == status and said in check.found and (check.remedy or status == "ok")


def test_more_threads_than_cores_and_few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert "set OMP_NUM_THREADS=" in environment.threads(1).remedy
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 256))
    assert environment.open_files().status == "warn"


def test_a_way_outside_fails_only_if_there_should_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert environment.outside(wanted_offline=False).status == "ok"
    assert environment.outside(wanted_offline=True).status == "fail"


def test_the_table_names_the_machine_where_there_are_several(tmp_path: Path) -> None:
    checks = [Check("torch", "ok", "2.13.0", host="a"), Check("torch", "ok", "2.13.0", host="b")]
    checks += [
        Check("disk", "fail", "full", "make room", "a"),
        Check("disk", "ok", "fine", host="b"),
        Check("x", "ok", "y"),
    ]
    lines = table(checks).splitlines()
    assert lines[0].endswith("2.13.0 [a, b]") and lines[1].endswith("full [a]; make room") and lines[3].endswith("y")
    assert worst(checks) == "fail" and worst(checks[:2]) == "ok"
    assert worst(machine_checks(tmp_path)) in ("ok", "warn", "fail")
