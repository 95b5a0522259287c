"""How fast demonstrations are rendered, recorded, written and read: the tabletop's two cameras, every core.

python benchmarks/demonstrations.py                    # 100,000 frames as images, and a tenth of them as videos
python benchmarks/demonstrations.py --frames 3000      # a rough rate

Rendering and recording run on as many processes as there are cores, as `kiban robot collect` does; writing the dataset,
its statistics included, is one process. A frame is a picture of each camera, the state and the action.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

import record  # noqa: E402

from kiban.artifacts.progress import Progress  # noqa: E402
from kiban.robotics import recording  # noqa: E402
from kiban.robotics.dataset import Dataset  # noqa: E402
from kiban.robotics.dataset_terms import Terms  # noqa: E402
from kiban.robotics.demonstrations import collect, features_of  # noqa: E402
from kiban.robotics.embodiment import load  # noqa: E402
from kiban.robotics.layout import V3  # noqa: E402

TASKS = ("reach", "push", "pick")
PILOT = 4  # episodes of each task, to learn how many frames one has
WANTED_S, WANTED_FRAMES = 15 * 60, 100_000


def size_of(folder: Path) -> float:
    """MB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def cpu_seconds() -> float:
    """Of this process and of those it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(frames: int, videos: bool, folder: Path) -> dict[str, Any]:
    """Collects about `frames` frames and reads them back: seconds, frames, MB."""
    robot, progress = load("tabletop-arm"), Progress()
    pilot = collect(robot, TASKS, PILOT, 1, folder / "pilot", folder / "pilot-work", progress, videos=videos)
    episodes = max(1, round(frames / (pilot.frames / PILOT)))
    begun, cpu = time.perf_counter(), cpu_seconds()
    made = collect(robot, TASKS, episodes, 0, folder / "dataset", folder / "work", progress, videos=videos)
    whole, cpu = time.perf_counter() - begun, cpu_seconds() - cpu
    begun = time.perf_counter()
    features, paths = features_of(robot, videos), sorted((folder / "work").glob("*.zip"))
    for _ in recording.finish(paths, folder / "again", features, robot.fps, robot.name, V3, Terms()):
        pass
    writing = time.perf_counter() - begun
    dataset = Dataset(folder / "dataset")
    begun = time.perf_counter()
    read = sum(1 for _ in dataset.stream(seed=0))
    return {
        "pictures": "mp4" if videos else "PNG",
        "frames": made.frames,
        "episodes": made.episodes,
        "seconds": whole,
        "cpu_seconds": cpu,
        "writing_s": writing,
        "frames_per_s": made.frames / whole,
        "megabytes": size_of(folder / "dataset"),
        "read_shuffled_frames_per_s": read / (time.perf_counter() - begun),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=WANTED_FRAMES)
    parser.add_argument("--rough", action="store_true", help="say in the record that the machine was not quiet")
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    arguments = parser.parse_args()
    runs = []
    for videos, frames in ((False, arguments.frames), (True, max(arguments.frames // 10, 500))):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(measure(frames, videos, Path(folder)))
        print(runs[-1], flush=True)
    found = record.circumstances() | {"cores": len(os.sched_getaffinity(0)), "rough": arguments.rough, "runs": runs}
    columns = [
        *("pictures", "frames", "s", "of it writing", "s of a core", "frames/s", "100,000 frames", "MB"),
        "read shuffled, frames/s",
    ]
    rows = [
        [
            run["pictures"],
            f"{run['frames']:,}",
            f"{run['seconds']:.1f}",
            f"{run['writing_s']:.1f}",
            f"{run['cpu_seconds']:.1f}",
            f"{run['frames_per_s']:.0f}",
            f"{WANTED_FRAMES / run['frames_per_s'] / 60:.1f} min",
            f"{run['megabytes']:.1f}",
            f"{run['read_shuffled_frames_per_s']:.0f}",
        ]
        for run in runs
    ]
    lines = [
        *record.head("Demonstrations rendered, recorded, written and read", found),
        f"{found['cores']} cores; the tabletop's cameras, 64x64 and 32x32, cast by rays; {len(TASKS)} tasks. Wanted: "
        f"{WANTED_FRAMES:,} frames in under {WANTED_S // 60} minutes on two cores.",
        *(["", "Rough: other work ran on the machine."] if arguments.rough else []),
        "",
        *record.table(columns, rows),
    ]
    print(record.write("demonstrations", found, "\n".join(lines), arguments.results))


if __name__ == "__main__":
    main()
