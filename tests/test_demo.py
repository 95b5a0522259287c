"""`make demo` as a newcomer has it: from a fresh copy in an empty environment, interrupted once, and run twice."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def make_demo(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name not in ("KIBAN_DATA", "PYTHONPATH")}
    command = ["make", "demo", f"PYTHON={sys.executable}"]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=log.open("ab"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )


@pytest.mark.slow
def test_the_whole_demo(tmp_path: Path) -> None:
    folder, log = tmp_path / "kiban", tmp_path / "log.txt"
    for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)

    first = make_demo(folder, log)
    deadline = time.monotonic() + 1500
    while not re.search(r"^training: .* steps/s", log.read_text(), flags=re.MULTILINE):
        assert time.monotonic() < deadline and first.poll() is None, log.read_text()[-3000:]
        time.sleep(1)
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(120) != 0
    assert "run the same command again to go on" in log.read_text()

    log.write_bytes(b"")
    assert make_demo(folder, log).wait(2400) == 0, log.read_text()[-3000:]
    text = log.read_text()
    assert "training goes on after step" in text and "[2/" not in text  # finished stages are not made again
    verdicts = dict(re.findall(r"^(M\d)\s+(met|partly met|not met)\s", text, flags=re.MULTILINE))
    assert set(verdicts) == {"M1", "M2", "M3"} and verdicts["M1"] == "met"
    assert (folder / "recipes" / "demo" / "report.html").is_file()

    log.write_bytes(b"")
    assert make_demo(folder, log).wait(120) == 0
    assert "nothing to do: all 11 stages are made" in log.read_text()
