"""Writes datasets in the LeRobotDataset v3.0 layout (see `layout`), without the lerobot package."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kiban.artifacts.files import write_json
from kiban.robotics.features import Episode
from kiban.robotics.layout import DATA_V3, V3, VIDEO_V3
from kiban.robotics.video import Joined
from kiban.robotics.writer import Writer

# A file is closed above these sizes; a chunk is a folder of that many files. lerobot's own values.
FILE_MB, VIDEO_MB, CHUNK_FILES = 100, 200, 1000
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


class DatasetWriter(Writer):
    """See `Writer`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._episodes: list[dict[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None
        self._videos: dict[str, tuple[int, Joined]] = {}  # by feature: the file's number, and the file

    def add(self, episode: Episode) -> None:
        placed = self._numbering.add(episode)
        self._write(placed.table)
        chunk_index, file_index = divmod(len(self._files) - 1, CHUNK_FILES)
        row: dict[str, Any] = {
            "episode_index": placed.number,
            "tasks": placed.tasks,
            "length": len(episode),
            "data/chunk_index": chunk_index,
            "data/file_index": file_index,
            "dataset_from_index": placed.first,
            "dataset_to_index": placed.first + len(episode),
        }
        for name, content in episode.videos.items():
            number, joined = self._joined(name)
            begins = joined.frames / self._fps
            joined.append(content, f"episode {placed.number}: '{name}'")
            row |= {
                f"videos/{name}/chunk_index": number // CHUNK_FILES,
                f"videos/{name}/file_index": number % CHUNK_FILES,
                f"videos/{name}/from_timestamp": begins,
                f"videos/{name}/to_timestamp": joined.frames / self._fps,
            }
        for name, stats in placed.stats.items():
            row |= {f"stats/{name}/{statistic}": value for statistic, value in stats.items()}
        self._episodes.append(row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})

    def _write(self, table: pa.Table) -> None:
        """A row group an episode: readers fetch one episode without the rest."""
        if self._writer is not None and self._files[-1].stat().st_size > FILE_MB * 1_000_000:
            self._writer.close()
            self._writer = None
        if self._writer is None:
            chunk_index, file_index = divmod(len(self._files), CHUNK_FILES)
            self._files.append(self._folder / DATA_V3.format(chunk_index=chunk_index, file_index=file_index))
            self._files[-1].parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._files[-1], table.schema, compression="snappy")
        self._writer.write_table(table, row_group_size=len(table))

    def _joined(self, name: str) -> tuple[int, Joined]:
        """The video file of the feature `name` that the next episode goes into, and its number."""
        number, joined = self._videos.get(name, (-1, None))
        if joined is None or joined.bytes > VIDEO_MB * 1_000_000:
            if joined is not None:
                joined.close()
            number += 1
            chunk_index, file_index = divmod(number, CHUNK_FILES)
            path = VIDEO_V3.format(video_key=name, chunk_index=chunk_index, file_index=file_index)
            joined = Joined(self._folder / path)
            self._videos[name] = number, joined
        return number, joined

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.close()
        for _, joined in self._videos.values():
            joined.close()
        path = self._folder / EPISODES
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(self._episodes), path, compression="snappy")
        numbering = self._numbering
        pq.write_table(_tasks_table(list(numbering.tasks)), self._folder / "meta/tasks.parquet", compression="snappy")
        write_json(self._folder / "meta/stats.json", numbering.of_all_frames(self._files))
        self._describe(
            V3,
            chunks_size=CHUNK_FILES,
            data_files_size_in_mb=FILE_MB,
            video_files_size_in_mb=VIDEO_MB,
            data_path=DATA_V3,
            video_path=VIDEO_V3 if self._videos else None,
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
