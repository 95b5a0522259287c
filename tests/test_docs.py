"""Every command in the docs is run, in order, as it stands there."""

import os
import re
import shlex
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from kiban.corpus.demo_text import passages
from tests.commands import KIBAN
from tests.small import small_demo, small_training

ROOT = Path(__file__).parent.parent
RUN = [
    *("README.md", "docs/training.md", "docs/evaluation.md", "docs/tokenizer.md", "docs/planning.md", "docs/corpus.md"),
    *(
        "docs/launch.md",
        "docs/robot-data.md",
        "docs/robot-safety.md",
        "docs/robot-serving.md",
        "docs/robot-evaluation.md",
    ),
]
PAGES = [
    *RUN,
    "README.ja.md",
    "CONTRIBUTING.md",
    "docs/corpus-sources.md",
    "docs/corpus-recipes.md",
    "docs/corpus-privacy.md",
    "docs/robot-policy.md",  # its commands are run by tests/robotics/test_train_policy.py
    "docs/scale-out.md",  # by tests/training/parallel
    "docs/scale-out-pipeline.md",
    "docs/results/open-text.md",
]

# Not run here but by whoever runs these tests: .ci/run calls `make check`, `make test` and `make test-slow`, and
# test_demo.py runs `make demo`. pre-commit's own installer writes into .git, the planner's fit into benchmarks/results;
# tests/planning fits, and climbs a ladder.
ELSEWHERE = {
    *("kiban ladder recipes/ladder", "kiban forecast recipes/ladder --preset tiny --gpu h100 --gpus 8"),
    *("make demo", "make check", "make test", "make test-slow", "pre-commit install"),
    "python benchmarks/planning.py $KIBAN_DATA/published_runs.json --only-report",
}

SAFETY = (
    "新しく配属された方へ。倉庫に入るときは、必ず安全靴を履いてください。先芯のない靴では、台車に足を轢かれたときに"
    "骨折するおそれがあります。床が濡れているのを見つけたら、まず水を拭き取り、それから班長に知らせます。靴底の溝が"
    "三ミリより浅くなったものは、備品係で交換してもらえます。\n"
)


def commands(page: str) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [re.sub(r"\s{2,}#.*", "", line[2:]).strip() for line in lines]


def test_the_pages_have_the_same_commands_in_both_languages() -> None:
    assert commands("README.md") == commands("README.ja.md")
    assert len(commands("README.md")) > 12


def test_inline_commands_exist() -> None:
    """`kiban ...` in running text names a command that there is."""
    help_text = subprocess.check_output([KIBAN, "--help"], text=True)
    for page in PAGES:
        path = ROOT / page
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for name in re.findall(r"`kiban ([a-z]+)", text):
            assert f"  {name} " in help_text, f"{page}: kiban {name}"


@pytest.mark.slow
def test_every_command_in_the_docs_works(tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    (home / "documents").mkdir(parents=True)
    for number, passage in enumerate(passages()):
        name, title = (f"{number}.md", f"# {passage.title}\n\n") if number % 2 else (f"{number}.txt", "")
        (home / "documents" / name).write_text(f"{title}{passage.text}\n", encoding="utf-8")
    (home / "documents" / "safety.txt").write_text(SAFETY, encoding="utf-8")
    (work / "recipes").mkdir(parents=True)
    small_demo(work / "recipes" / "demo")
    (work / "letter.txt").write_text("拝啓　時下ますますご清栄のこととお慶び申し上げます。", encoding="utf-8")
    environment = {**os.environ, "HOME": str(home), "PATH": f"{Path(KIBAN).parent}:{os.environ['PATH']}"}
    subprocess.run([KIBAN, "run", "recipes/demo"], cwd=work, env=environment, check=True, capture_output=True)
    for command in [command for page in RUN for command in commands(page)]:
        if command in ELSEWHERE or ("$KIBAN_DATA" in command and "KIBAN_DATA" not in os.environ):
            continue
        if command.startswith("kiban run mine"):
            small_training(work / "mine" / "kiban.toml")
        if command.startswith(("kiban serve", "kiban robot serve")):
            _serves(command, "/healthz" if "robot" in command else "/v1/models", work, environment)
            continue
        short = re.sub(r"--steps \d+", "--steps 3", command)
        done = subprocess.run(
            ["bash", "-c", short],
            cwd=work,
            env=environment,
            input="",
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def _serves(command: str, page: str, work: Path, environment: dict[str, str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([*shlex.split(command), "--port", str(port)], cwd=work, env=environment)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=5) as answer:
                    assert answer.status == 200
                    return
            except OSError:
                assert time.monotonic() < deadline and server.poll() is None
                time.sleep(0.2)
    finally:
        server.terminate()
        server.wait(30)
