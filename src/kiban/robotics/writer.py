"""What the writers of both layouts share: numbering frames and sentences as episodes come, and their statistics."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kiban.artifacts.errors import KibanError
from kiban.robotics.dataset_terms import Terms
from kiban.robotics.features import COUNTERS, Episode, Feature, arrow_type, decoded
from kiban.robotics.frame_statistics import Stats, of_pictures, of_vectors
from kiban.robotics.layout import write_info


@dataclass(frozen=True)
class Numbered:
    """An episode at its place: `table` as it is written, `first` the number of its first frame in the dataset."""

    number: int
    first: int
    table: pa.Table
    tasks: list[str]
    stats: dict[str, Stats]


class Numbering:
    """`tasks` are sentences that have their number already."""

    def __init__(self, features: Mapping[str, Feature], fps: int, tasks: Sequence[str] = ()) -> None:
        self.features = {name: feature for name, feature in features.items() if name not in COUNTERS} | {
            name: features.get(name, counter) for name, counter in COUNTERS.items()
        }
        self.tasks = {task: index for index, task in enumerate(tasks)}
        self.episodes = self.frames = 0
        self._fps = fps
        self._levels: dict[str, NDArray[np.int64]] = {}

    def add(self, episode: Episode) -> Numbered:
        """Raises KibanError if the episode has other features."""
        length, sentences = len(episode), episode.table["task"].to_pylist()
        frame_index = np.arange(length, dtype=np.int64)
        for task in episode.tasks:
            self.tasks.setdefault(task, len(self.tasks))
        counters = {
            "timestamp": (frame_index / self._fps).astype(np.float32),
            "frame_index": frame_index,
            "episode_index": np.full(length, self.episodes, np.int64),
            "index": self.frames + frame_index,
            "task_index": np.array([self.tasks[task] for task in sentences], np.int64),
        }
        columns = {}
        for name, feature in self.features.items():
            if feature.dtype == "video":
                continue
            given = name in episode.table.column_names and name not in ("episode_index", "index", "task_index")
            if not given and name not in counters:
                raise KibanError(f"episode {self.episodes}: has no '{name}'; record all episodes alike")
            column = episode.table[name] if given else pa.array(counters[name])
            if feature.dtype != "language":
                column = _as_declared(column, feature, f"episode {self.episodes}: '{name}'")
            columns[name] = column
        table = pa.table(columns).replace_schema_metadata({"huggingface": _for_hugging_face(self.features)})
        numbered = Numbered(self.episodes, self.frames, table, episode.tasks, self._statistics(table, episode))
        for name, levels in episode.levels.items():
            self._levels[name] = self._levels.get(name, np.zeros_like(levels)) + levels
        self.episodes += 1
        self.frames += length
        return numbered

    def _statistics(self, table: pa.Table, episode: Episode) -> dict[str, Stats]:
        stats = {}
        for name, feature in self.features.items():
            if feature.is_picture:
                stats[name] = of_pictures(episode.levels[name], len(episode))
            elif feature.is_number:
                stats[name] = of_vectors(decoded(table[name], feature, f"episode {self.episodes}: '{name}'"))
        return stats

    def of_all_frames(self, files: Iterable[Path]) -> dict[str, Stats]:
        """Statistics over all frames; vectors are read back from `files`, one feature at a time."""
        paths = list(files)
        stats = {}
        for name, feature in self.features.items():
            if feature.is_picture:
                stats[name] = of_pictures(self._levels[name], self.frames)
            elif feature.is_number:
                parts = [
                    decoded(pq.read_table(path, columns=[name])[name], feature, f"{path}: '{name}'") for path in paths
                ]
                stats[name] = of_vectors(np.concatenate(parts))
        return stats


def _as_declared(column: pa.ChunkedArray, feature: Feature, where: str) -> pa.ChunkedArray:
    """With the type that the feature's dtype and shape say, whoever wrote it."""
    try:
        return column.cast(arrow_type(feature))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise KibanError(f"{where}: is {column.type}, not {feature.dtype} {feature.shape} ({error})") from None


def _for_hugging_face(features: Mapping[str, Feature]) -> str:
    """What the `datasets` library looks for in a Parquet file: readers of v2.1 know from it alone which columns are
    pictures."""
    said: dict[str, Any] = {}
    for name, feature in features.items():
        if feature.dtype == "video":
            continue
        value = {"dtype": feature.dtype, "_type": "Value"}
        if feature.dtype == "image":
            said[name] = {"_type": "Image"}
        elif feature.shape == (1,):
            said[name] = value
        elif len(feature.shape) == 1:
            said[name] = {"feature": value, "length": feature.shape[0], "_type": "Sequence"}
        else:
            said[name] = {
                "shape": list(feature.shape),
                "dtype": feature.dtype,
                "_type": f"Array{len(feature.shape)}D",
            }
    return json.dumps({"info": {"features": said}})


class Writer(ABC):
    """Writes a dataset into `folder`: `add` every episode in order, then `finish`.

    `tasks` are sentences to be numbered first, `carried` further entries of info.json.
    """

    def __init__(
        self,
        folder: Path,
        features: Mapping[str, Feature],
        fps: int,
        robot_type: str | None,
        tasks: Sequence[str] = (),
        terms: Terms | None = None,
        carried: Mapping[str, Any] | None = None,
    ) -> None:
        self._folder, self._fps, self._robot_type = folder, fps, robot_type
        self._terms, self._carried = terms, dict(carried or {})
        self._numbering = Numbering(features, fps, tasks)
        self._files: list[Path] = []  # of frames

    @abstractmethod
    def add(self, episode: Episode) -> None:
        """Raises KibanError if the episode has other features."""

    @abstractmethod
    def finish(self) -> None:
        """Writes all that is said of the whole. Without it there is no dataset."""

    def _describe(self, version: str, **own: Any) -> None:
        """The terms and info.json, with `own` entries of the layout."""
        assert self._files, "a dataset without an episode"
        numbering = self._numbering
        if self._terms is not None:
            self._terms.write(self._folder)
        info = {
            "codebase_version": version,
            "robot_type": self._robot_type,
            "total_episodes": numbering.episodes,
            "total_frames": numbering.frames,
            "total_tasks": len(numbering.tasks),
            "fps": self._fps,
            "splits": {"train": f"0:{numbering.episodes}"},
            **own,
            "features": {name: feature.description() for name, feature in numbering.features.items()},
        }
        write_info(self._folder, info | self._carried)
