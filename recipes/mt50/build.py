"""MT50 in Japanese, whole: language model, demonstrations, policy, success rates. It can be stopped, and goes on.

    python recipes/mt50/build.py mt50            # into the folder mt50, on two cores
    python recipes/mt50/build.py small --task reach-v3 --episodes 1 --steps 4 --evaluate 1

Every step is a command of `kiban`, printed as it is run. Meta-World is needed (`pip install kiban[metaworld]`).

Planned for at most 150 minutes: 50 tasks with 20 demonstrations each (some 85,000 frames of 80 Hz, 15 minutes), 36,000
steps of 64 frames (some 100 minutes), 500 episodes (some 20 minutes). Pictures are shrunk to 64x64, since a picture of
128x128 costs four times as much; 16 actions (0.2 s) are foreseen and 8 executed.
"""

import argparse
import shlex
import subprocess
from pathlib import Path

from kiban.robotics import meta_world

DEMO = Path(__file__).resolve().parents[1] / "demo"


def kiban(*arguments: object) -> None:
    command = ["kiban", *map(str, arguments)]
    print("$", shlex.join(command) if len(command) < 24 else f"{shlex.join(command[:12])} ...", flush=True)
    subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where everything goes")
    parser.add_argument("--language", type=Path, help="an exported language model; the demo's is made if none is given")
    parser.add_argument("--task", action="append", help="one task, repeatedly; all fifty if not given")
    parser.add_argument("--episodes", type=int, default=20, help="demonstrations of each task")
    parser.add_argument("--steps", type=int, default=36_000, help="of training")
    parser.add_argument("--evaluate", type=int, default=10, help="episodes of each task")
    arguments = parser.parse_args()
    folder, language = arguments.folder, arguments.language
    tasks = [word for task in arguments.task or meta_world.tasks() for word in ("--task", task)]
    folder.mkdir(parents=True, exist_ok=True)
    if language is None:
        kiban("run", DEMO, "--to", "export")
        [language] = (DEMO / ".kiban" / "artifacts" / "export").glob("*/")
    dataset, policy = folder / "demonstrations", folder / "policy"
    if not dataset.exists():
        kiban("robot", "collect", dataset, "--embodiment", "meta-world", "--episodes", arguments.episodes, *tasks)
    if not (policy / "policy.json").exists():
        sizes = ("--pixels", 64, "--chunk", 16)
        kiban("robot", "train", dataset, "--language", language, "--out", policy, "--steps", arguments.steps, *sizes)
    records = ("--out", folder / "evaluation")
    kiban("robot", "evaluate", policy, "--suite", "mt50-ja", "--episodes", arguments.evaluate, *records, *tasks)


if __name__ == "__main__":
    main()
