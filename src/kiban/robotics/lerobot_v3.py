"""Datasets in the LeRobotDataset v3.0 layout, written and read without the lerobot package. Images are PNG bytes.

    meta/info.json                                features, counts, paths
    meta/stats.json                               of every feature, over all frames
    meta/tasks.parquet                            a pandas frame: index `task` (the sentence), column `task_index`
    meta/episodes/chunk-000/file-000.parquet      a row per episode
    data/chunk-000/file-000.parquet               a row per frame, a row group per episode

The layout follows lerobot 0.4 to 0.6 (`datasets/dataset_writer.py`, `datasets/utils.py`). Unlike lerobot's, our
quantiles over all frames are exact, not envelopes over episodes.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_json

VERSION = "v3.0"
FILE_MB, CHUNK_FILES = 100, 1000  # a data file is closed above that size; a chunk is a folder of that many files
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

Values = NDArray[Any]
Stats = dict[str, list[Any]]


@dataclass(frozen=True)
class Feature:
    """`dtype` is numpy's name, or `image` for uint8 frames of `shape` (height, width, channels)."""

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None


COUNTERS = {
    "timestamp": Feature("float32", (1,)),  # s since the episode began: frame_index / fps
    "frame_index": Feature("int64", (1,)),
    "episode_index": Feature("int64", (1,)),
    "index": Feature("int64", (1,)),
    "task_index": Feature("int64", (1,)),
}


def image(height: int, width: int) -> Feature:
    return Feature("image", (height, width, 3), ("height", "width", "channels"))


# An episode: encoded where it was recorded, so that many processes can record, and numbered where it is written.


def encode(features: Mapping[str, Feature], frames: Mapping[str, Values], task: str) -> pa.Table:
    """One episode as an Arrow table: a column for each of `features`, each of shape [frames, *feature.shape].

    Raises:
        KibanError: if a feature is missing, has another shape or type, or holds NaN.
    """
    lengths = {len(values) for values in frames.values()}
    if set(frames) != set(features) or len(lengths) != 1 or lengths == {0}:
        raise KibanError(f"episode '{task}': has {sorted(frames)} of lengths {sorted(lengths)}, not {sorted(features)}")
    columns = {}
    for name, feature in features.items():
        values = frames[name]
        dtype = "uint8" if feature.dtype == "image" else feature.dtype
        if values.shape[1:] != feature.shape or values.dtype != dtype:
            raise KibanError(
                f"episode '{task}': '{name}' is {values.dtype} {values.shape[1:]}, not {dtype} {feature.shape}"
            )
        if not np.isfinite(values).all():
            raise KibanError(f"episode '{task}': '{name}' holds NaN or infinity; drop the episode")
        columns[name] = _images(values) if feature.dtype == "image" else _vectors(values)
    return pa.table(columns).replace_schema_metadata({"task": task})


def _images(frames: Values) -> pa.Array:
    encoded = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "PNG", compress_level=1)
        encoded.append(buffer.getvalue())
    paths = [f"frame-{index:06d}.png" for index in range(len(frames))]
    return pa.StructArray.from_arrays([pa.array(encoded, pa.binary()), pa.array(paths, pa.string())], ["bytes", "path"])


def _vectors(values: Values) -> pa.Array:
    flat = pa.array(values.ravel())
    return flat if values.shape[1:] == (1,) else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _decoded(column: pa.ChunkedArray, feature: Feature) -> Values:
    combined = column.combine_chunks()
    if feature.dtype == "image":
        frames = np.empty((len(combined), *feature.shape), np.uint8)
        for row, encoded in enumerate(combined.field("bytes")):
            frames[row] = np.asarray(Image.open(io.BytesIO(encoded.as_py())))
        return frames
    flat = combined.flatten() if pa.types.is_fixed_size_list(combined.type) else combined
    return flat.to_numpy(zero_copy_only=False).reshape(len(combined), *feature.shape)


class _Statistics:
    """Minimum, maximum, mean, deviation and quantiles, all exact: vectors are kept, images counted by brightness."""

    def __init__(self) -> None:
        self._vectors: dict[str, list[Values]] = {}
        self._levels: dict[str, NDArray[np.int64]] = {}
        self._images: dict[str, int] = {}

    def add(self, name: str, values: Values, is_image: bool) -> None:
        if not is_image:
            self._vectors.setdefault(name, []).append(values)
            return
        levels = np.stack([np.bincount(values[..., channel].ravel(), minlength=256) for channel in range(3)])
        self._levels[name] = self._levels.get(name, np.zeros_like(levels)) + levels
        self._images[name] = self._images.get(name, 0) + len(values)

    def summary(self) -> dict[str, Stats]:
        stats = {name: _vector_stats(np.concatenate(parts)) for name, parts in self._vectors.items()}
        return stats | {name: _image_stats(levels, self._images[name]) for name, levels in self._levels.items()}


def _vector_stats(values: Values) -> Stats:
    values = values.astype(np.float64)
    stats = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    stats |= {name: np.quantile(values, q, axis=0) for name, q in QUANTILES.items()}
    return {name: value.tolist() for name, value in stats.items()} | {"count": [len(values)]}


def _image_stats(levels: Values, count: int) -> Stats:
    """From pixel counts by level, [channel, 256]; in [0, 1], of shape (3, 1, 1) as readers expect."""
    brightness = np.arange(256) / 255
    total = levels.sum(1)
    mean = levels @ brightness / total
    cumulated = levels.cumsum(1)
    stats = {
        "min": brightness[(levels > 0).argmax(1)],
        "max": brightness[255 - (levels[:, ::-1] > 0).argmax(1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(levels @ brightness**2 / total - mean**2, 0.0)),
    }
    stats |= {name: brightness[(cumulated >= q * total[:, None]).argmax(1)] for name, q in QUANTILES.items()}
    return {name: value.reshape(3, 1, 1).tolist() for name, value in stats.items()} | {"count": [count]}


class DatasetWriter:
    """Writes a dataset into `folder`: `add` every episode in order, then `finish`."""

    def __init__(self, folder: Path, features: Mapping[str, Feature], fps: int, robot_type: str) -> None:
        self._folder, self._fps, self._robot_type = folder, fps, robot_type
        self._features = dict(features)
        self._tasks: dict[str, int] = {}
        self._episodes: list[dict[str, Any]] = []
        self._statistics = _Statistics()
        self._frames = 0
        self._file = 0
        self._path = folder
        self._writer: pq.ParquetWriter | None = None

    def add(self, episode: pa.Table) -> None:
        """`episode` comes from `encode`."""
        task = episode.schema.metadata[b"task"].decode()
        task_index = self._tasks.setdefault(task, len(self._tasks))
        length, number, first = len(episode), len(self._episodes), self._frames
        frame_index = np.arange(length, dtype=np.int64)
        counters: dict[str, Values] = {
            "timestamp": (frame_index / self._fps).astype(np.float32),
            "frame_index": frame_index,
            "episode_index": np.full(length, number, np.int64),
            "index": first + frame_index,
            "task_index": np.full(length, task_index, np.int64),
        }
        statistics = _Statistics()
        for name, feature in self._features.items():
            values = _decoded(episode[name], feature)
            for one in (statistics, self._statistics):
                one.add(name, values, feature.dtype == "image")
        for name, values in counters.items():
            episode = episode.append_column(name, pa.array(values))
            for one in (statistics, self._statistics):
                one.add(name, values[:, None], is_image=False)
        self._write(episode.replace_schema_metadata(None))
        chunk_index, file_index = divmod(self._file, CHUNK_FILES)
        self._episodes.append(
            {
                "episode_index": number,
                "tasks": [task],
                "length": length,
                "data/chunk_index": chunk_index,
                "data/file_index": file_index,
                "dataset_from_index": first,
                "dataset_to_index": first + length,
                **{
                    f"stats/{name}/{statistic}": value
                    for name, stats in statistics.summary().items()
                    for statistic, value in stats.items()
                },
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
        )
        self._frames += length

    def _write(self, episode: pa.Table) -> None:
        """A row group an episode: readers fetch one episode without the rest."""
        if self._writer is not None and self._path.stat().st_size > FILE_MB * 1_000_000:
            self._writer.close()
            self._writer = None
            self._file += 1
        if self._writer is None:
            chunk_index, file_index = divmod(self._file, CHUNK_FILES)
            self._path = self._folder / DATA.format(chunk_index=chunk_index, file_index=file_index)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._path, episode.schema, compression="snappy")
        self._writer.write_table(episode, row_group_size=len(episode))

    def finish(self) -> None:
        assert self._writer is not None, "a dataset without an episode"
        self._writer.close()
        path = self._folder / EPISODES
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(self._episodes), path, compression="snappy")
        pq.write_table(_tasks_table(list(self._tasks)), self._folder / "meta/tasks.parquet", compression="snappy")
        write_json(self._folder / "meta/stats.json", self._statistics.summary())
        write_json(
            self._folder / "meta/info.json",
            {
                "codebase_version": VERSION,
                "robot_type": self._robot_type,
                "fps": self._fps,
                "total_episodes": len(self._episodes),
                "total_frames": self._frames,
                "total_tasks": len(self._tasks),
                "chunks_size": CHUNK_FILES,
                "data_files_size_in_mb": FILE_MB,
                "video_files_size_in_mb": 200,
                "data_path": DATA,
                "video_path": None,
                "splits": {"train": f"0:{len(self._episodes)}"},
                "features": {
                    name: {"dtype": f.dtype, "shape": list(f.shape), "names": list(f.names) if f.names else None}
                    for name, f in (self._features | COUNTERS).items()
                },
            },
        )


def _tasks_table(tasks: list[str]) -> pa.Table:
    """What pandas would write for a frame with the sentences as its index: readers ask the index for them."""
    description = {
        "index_columns": ["task"],
        "column_indexes": [
            {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
        ],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}
            for name, kind, numpy_kind in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(description)})


class Dataset:
    """A dataset in this layout, read from `folder`.

    `frames(name)` gives a feature of all frames, [frames, *shape]; `tasks` the sentences; `stats` as in stats.json.

    Raises:
        KibanError: if it is not of version 3.0, or files or columns are missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        info = read_json(folder / "meta/info.json")
        if info.get("codebase_version") != VERSION:
            raise KibanError(f"{folder}: LeRobot dataset {info.get('codebase_version')}; only {VERSION} is read")
        self.fps: int = info["fps"]
        self.features = {
            name: Feature(f["dtype"], tuple(f["shape"]), tuple(f["names"]) if f["names"] else None)
            for name, f in info["features"].items()
        }
        self.stats: dict[str, Stats] = read_json(folder / "meta/stats.json")
        try:
            tasks = pq.read_table(folder / "meta/tasks.parquet")
            self.episodes = pq.read_table(folder / "meta/episodes")
            self._files = sorted(folder.glob("data/*/*.parquet"))
            self._schemas = [pq.read_schema(path) for path in self._files]
        except (OSError, pa.ArrowInvalid) as error:
            raise KibanError(f"{folder}: not a whole LeRobot dataset ({error}); restore it") from None
        numbered = dict(zip(tasks["task_index"].to_pylist(), tasks["task"].to_pylist(), strict=True))
        self.tasks: list[str] = [numbered[index] for index in range(len(numbered))]

    def frames(self, name: str) -> Values:
        """All frames of the feature `name`. Raises KibanError if the dataset has no such feature."""
        for path, schema in zip(self._files, self._schemas, strict=True):
            if name not in schema.names:
                raise KibanError(f"{path}: has no '{name}'; it has {', '.join(schema.names)}")
        tables = (pq.read_table(path, columns=[name]) for path in self._files)
        return np.concatenate([_decoded(table[name], self.features[name]) for table in tables])
