"""Where a dataset's episodes lie: the two layouts of LeRobot that are read and written.

v3.0, many episodes in a file:

    meta/info.json                                features, counts, paths
    meta/stats.json                               of every feature, over all frames
    meta/tasks.parquet                            a pandas frame: index `task` (the sentence), column `task_index`
    meta/episodes/chunk-000/file-000.parquet      a row per episode
    data/chunk-000/file-000.parquet               a row per frame, a row group per episode
    videos/<feature>/chunk-000/file-000.mp4       episodes one after the other

v2.1, a file an episode:

    meta/info.json  meta/stats.json  meta/modality.json
    meta/tasks.jsonl  meta/episodes.jsonl  meta/episodes_stats.jsonl
    data/chunk-000/episode_000000.parquet
    videos/chunk-000/<feature>/episode_000000.mp4

v2.0 is v2.1 with statistics over all frames in place of the episodes'; it is read alone. The layouts follow lerobot 0.3
(v2.1) and 0.4 to 0.6 (v3.0), `datasets/utils.py` and `datasets/lerobot_dataset.py`. In either, ours have
`meta/kiban.json`: the terms under which the data may be used, and what they were made from; other readers pass it over.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_atomic
from kiban.robotics.frame_statistics import Stats, of_all

V3, V21, V20 = "v3.0", "v2.1", "v2.0"

TERMS = "meta/kiban.json"
DATA_V3 = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_V3 = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
DATA_V21 = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_V21 = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


@dataclass(frozen=True)
class Place:
    """Where an episode lies: `length` rows of `data` from `first_row` on, and of each video from a frame on."""

    tasks: tuple[str, ...]
    length: int
    data: Path
    first_row: int
    videos: Mapping[str, tuple[Path, int]]


@dataclass(frozen=True)
class Contents:
    """All that is said of a dataset outside its frames. `episodes` are in their order."""

    info: dict[str, Any]
    tasks: list[str]
    episodes: list[Place]
    stats: dict[str, Stats]
    episode_stats: Sequence[dict[str, Stats]]


def read(folder: Path) -> Contents:
    """What is said of the dataset in `folder`.

    Raises:
        KibanError: if it is in another layout, or something is missing or not as it should be.
    """
    info = read_json(folder / "meta/info.json")
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version not in (V3, V21, V20):
        raise KibanError(f"{folder}: LeRobot dataset {version}; {V3}, {V21} and {V20} are read")
    try:
        if not isinstance(info["fps"], int | float) or info["fps"] <= 0 or info["fps"] != int(info["fps"]):
            raise KibanError(f"{folder}/meta/info.json: fps is {info['fps']!r}, not a whole number above zero")
        return _read_v3(folder, info) if version == V3 else _read_v2(folder, info)
    except (OSError, pa.ArrowInvalid) as error:
        raise KibanError(f"{folder}: not a whole LeRobot dataset ({error}); restore it") from None
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise KibanError(f"{folder}: not as LeRobot {version} has it: {type(error).__name__} {error}") from None


def _read_v3(folder: Path, info: dict[str, Any]) -> Contents:
    numbered = pq.read_table(folder / "meta/tasks.parquet").to_pydict()
    sentences = numbered.get("task") or numbered.get("__index_level_0__")
    if sentences is None:
        raise KibanError(f"{folder}/meta/tasks.parquet: has no column 'task'; write it as a pandas frame indexed by it")
    tasks = _in_order(dict(zip(numbered["task_index"], sentences, strict=True)))
    rows = sorted(
        (row for path in sorted(folder.glob("meta/episodes/*/*.parquet")) for row in pq.read_table(path).to_pylist()),
        key=lambda row: row["episode_index"],
    )
    videos = [name for name, entry in info["features"].items() if entry["dtype"] == "video"]
    first_of_file: dict[Path, int] = {}
    episodes = []
    for row in rows:
        data = folder / info["data_path"].format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
        first = first_of_file.setdefault(data, row["dataset_from_index"])
        shown = {}
        for name in videos:
            path = info["video_path"].format(
                video_key=name,
                chunk_index=row[f"videos/{name}/chunk_index"],
                file_index=row[f"videos/{name}/file_index"],
            )
            shown[name] = (folder / path, round(row[f"videos/{name}/from_timestamp"] * info["fps"]))
        episodes.append(Place(tuple(row["tasks"]), row["length"], data, row["dataset_from_index"] - first, shown))
    stats = folder / "meta/stats.json"
    return Contents(info, tasks, episodes, read_json(stats) if stats.exists() else {}, [_stats_of(row) for row in rows])


def _stats_of(row: dict[str, Any]) -> dict[str, Stats]:
    """The statistics in a row of meta/episodes: `stats/<feature>/<statistic>`."""
    stats: dict[str, Stats] = {}
    for key, value in row.items():
        if key.startswith("stats/"):
            _, name, statistic = key.split("/")
            stats.setdefault(name, {})[statistic] = value
    return stats


def _read_v2(folder: Path, info: dict[str, Any]) -> Contents:
    tasks = _in_order({row["task_index"]: row["task"] for row in _lines(folder / "meta/tasks.jsonl")})
    rows = sorted(_lines(folder / "meta/episodes.jsonl"), key=lambda row: row["episode_index"])
    videos = [name for name, entry in info["features"].items() if entry["dtype"] == "video"]
    episodes = []
    for row in rows:
        number, chunk = row["episode_index"], row["episode_index"] // info["chunks_size"]
        data = folder / info["data_path"].format(episode_chunk=chunk, episode_index=number)
        shown = {
            name: (folder / info["video_path"].format(episode_chunk=chunk, video_key=name, episode_index=number), 0)
            for name in videos
        }
        episodes.append(Place(tuple(row["tasks"]), row["length"], data, 0, shown))
    found = folder / "meta/episodes_stats.jsonl"
    by_episode = [row["stats"] for row in _lines(found)] if found.exists() else []
    whole = folder / "meta/stats.json"
    return Contents(info, tasks, episodes, read_json(whole) if whole.exists() else of_all(by_episode), by_episode)


def _in_order(numbered: Mapping[int, str]) -> list[str]:
    return [numbered[index] for index in range(len(numbered))]


def _lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_info(folder: Path, info: Mapping[str, Any]) -> None:
    """With the features in their order."""
    write_atomic(folder / "meta/info.json", json.dumps(info, ensure_ascii=False, indent=4) + "\n")
