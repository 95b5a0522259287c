"""Writes datasets in the LeRobotDataset v2.1 layout (see `layout`), as GR00T and loaders of openpi's age want them."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import pyarrow.parquet as pq

from kiban.artifacts.files import write_json
from kiban.robotics.features import ACTION, IMAGES, STATE, Episode, Feature
from kiban.robotics.layout import DATA_V21, V21, VIDEO_V21, write_lines
from kiban.robotics.writer import Writer

CHUNK_EPISODES = 1000  # a chunk is a folder of that many episodes


class DatasetWriter(Writer):
    """See `Writer`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._episodes: list[dict[str, Any]] = []
        self._stats: list[dict[str, Any]] = []
        self._num_videos = 0

    def add(self, episode: Episode) -> None:
        placed = self._numbering.add(episode)
        where = {"episode_chunk": placed.number // CHUNK_EPISODES, "episode_index": placed.number}
        self._files.append(self._folder / DATA_V21.format(**where))
        self._files[-1].parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(placed.table, self._files[-1], row_group_size=len(episode), compression="snappy")
        for name, content in episode.videos.items():
            path = self._folder / VIDEO_V21.format(video_key=name, **where)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            self._num_videos += 1
        self._episodes.append({"episode_index": placed.number, "tasks": placed.tasks, "length": len(episode)})
        self._stats.append({"episode_index": placed.number, "stats": placed.stats})

    def finish(self) -> None:
        numbering, meta = self._numbering, self._folder / "meta"
        write_lines(meta / "episodes.jsonl", self._episodes)
        write_lines(meta / "episodes_stats.jsonl", self._stats)
        write_lines(
            meta / "tasks.jsonl", [{"task_index": index, "task": task} for task, index in numbering.tasks.items()]
        )
        write_json(meta / "stats.json", numbering.of_all_frames(self._files))
        write_json(meta / "modality.json", modality(numbering.features))
        self._describe(
            V21,
            total_videos=self._num_videos,
            total_chunks=-(-numbering.episodes // CHUNK_EPISODES),
            chunks_size=CHUNK_EPISODES,
            data_path=DATA_V21,
            video_path=VIDEO_V21 if self._num_videos else None,
        )


def modality(features: Mapping[str, Feature]) -> dict[str, Any]:
    """What GR00T wants to know (`getting_started/data_preparation.md` there): which numbers of state and action belong
    together, and where the videos and the sentences are.

    Numbers whose names begin alike up to a dot, in a row, are a part of that name; those without a dot are `joints`.
    """
    parts = {
        kind: _parts(features[name].names or ("all",) * features[name].shape[0])
        for kind, name in (("state", STATE), ("action", ACTION))
        if name in features
    }
    videos = {
        name.removeprefix(IMAGES): {"original_key": name} for name, feature in features.items() if feature.is_picture
    }
    return {**parts, "video": videos, "annotation": {"human.task_description": {"original_key": "task_index"}}}


def _parts(names: Sequence[str]) -> dict[str, dict[str, int]]:
    parts: dict[str, dict[str, int]] = {}
    start = 0
    for part, group in groupby(name.partition(".")[0] if "." in name else "joints" for name in names):
        end = start + len(list(group))
        key = part if part not in parts else f"{part}_{start}"
        parts[key] = {"start": start, "end": end}
        start = end
    return parts
