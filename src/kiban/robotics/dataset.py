"""Reads datasets in either layout of LeRobot: whole features, one episode, or frame by frame, shuffled if wanted."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kiban.artifacts.errors import KibanError
from kiban.robotics import dataset_terms, layout, video
from kiban.robotics.features import Episode, Feature, Values, decoded, pixel_levels

WINDOW = 16  # episodes whose frames are mixed with one another in a shuffled reading


class Dataset:
    """The dataset in `folder`, of LeRobot v3.0, v2.1 or v2.0.

    `features` by name; `tasks` the sentences; `stats` over all frames, as in stats.json; `fps`; `robot_type`; `terms`
    as it carries them; `episodes` says where each lies. Frames are read when they are asked for.

    Raises:
        KibanError: if it is in another layout, or files are missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        contents = layout.read(folder)
        self.info: dict[str, Any] = contents.info
        self.fps = int(contents.info["fps"])
        self.robot_type: str | None = contents.info.get("robot_type")
        self.features = {name: Feature.read(entry) for name, entry in contents.info["features"].items()}
        self.tasks, self.episodes, self.stats = contents.tasks, contents.episodes, contents.stats
        self.episode_stats = contents.episode_stats
        self.terms = dataset_terms.read(folder)
        self._files = list(dict.fromkeys(place.data for place in self.episodes))
        try:
            self._schemas = {path: pq.read_schema(path) for path in self._files}
        except (OSError, pa.ArrowInvalid) as error:
            raise KibanError(f"{folder}: not a whole LeRobot dataset ({error}); restore it") from None

    def __len__(self) -> int:
        """Frames."""
        return sum(place.length for place in self.episodes)

    def frames(self, name: str) -> Values:
        """All frames of the feature `name`, [frames, *shape]; it must fit in memory.

        Raises:
            KibanError: if the dataset has no such feature, or it is not of its shape.
        """
        feature = self._feature(name)
        if feature.dtype == "video":
            return np.concatenate([self._shown(number, name) for number in range(len(self.episodes))])
        tables = ((path, pq.read_table(path, columns=[name])) for path in self._files)
        return np.concatenate([decoded(table[name], feature, f"{path}: '{name}'") for path, table in tables])

    def episode(self, number: int, names: Iterable[str] | None = None) -> dict[str, Values]:
        """One episode: each feature of `names` (all of them if not given), [frames, *shape].

        Raises:
            KibanError: as `frames`.
        """
        wanted = {name: self._feature(name) for name in (self.features if names is None else names)}
        table = self.rows(number, [name for name, feature in wanted.items() if feature.dtype != "video"])
        where = self.episodes[number].data
        return {
            name: self._shown(number, name)
            if feature.dtype == "video"
            else decoded(table[name], feature, f"{where}: '{name}'")
            for name, feature in wanted.items()
        }

    def stream(
        self, names: Iterable[str] | None = None, seed: int | None = None, window: int = WINDOW
    ) -> Iterator[dict[str, Values]]:
        """Frames one by one, each feature of the shape `shape`; never more than `window` episodes are in memory.

        Without a seed they come in order. With one, episodes are drawn in an order that follows from it, and the frames
        of `window` episodes at a time are mixed: the same seed gives the same order everywhere.
        """
        chosen = list(self.features if names is None else names)
        rng = None if seed is None else np.random.default_rng(seed)
        order = np.arange(len(self.episodes)) if rng is None else rng.permutation(len(self.episodes))
        step = 1 if rng is None else window
        for start in range(0, len(order), step):
            parts = [self.episode(int(number), chosen) for number in order[start : start + step]]
            frames = {name: np.concatenate([part[name] for part in parts]) for name in chosen}
            length = len(next(iter(frames.values())))
            for index in range(length) if rng is None else rng.permutation(length):
                yield {name: values[index] for name, values in frames.items()}

    def encoded(self, number: int) -> Episode:
        """One episode as it lies in the files, pictures not encoded anew: for a writer.

        Raises:
            KibanError: as `frames`, or if a video cannot be cut there without loss.
        """
        place = self.episodes[number]
        table = self.rows(number, [name for name, feature in self.features.items() if feature.dtype != "video"])
        numbers = table["task_index"].to_pylist()
        table = table.append_column("task", pa.array([self.tasks[index] for index in numbers], pa.string()))
        levels, videos = {}, {}
        for name, feature in self.features.items():
            if feature.dtype == "video":
                path, first = place.videos[name]
                videos[name] = video.cut(path, first, place.length, str(path))
                levels[name] = pixel_levels(self._shown(number, name))
            elif feature.dtype == "image":
                levels[name] = pixel_levels(decoded(table[name], feature, f"{place.data}: '{name}'"))
        return Episode(table, videos, levels)

    def _feature(self, name: str) -> Feature:
        if name not in self.features:
            raise KibanError(f"{self.folder}: has no '{name}'; it has {', '.join(self.features)}")
        feature = self.features[name]
        if feature.dtype != "video":
            for path, schema in self._schemas.items():
                if name not in schema.names:
                    raise KibanError(f"{path}: has no '{name}'; it has {', '.join(schema.names)}")
        return feature

    def rows(self, number: int, names: list[str]) -> pa.Table:
        """The columns `names` of one episode: the row groups that hold it are read, and no more."""
        place = self.episodes[number]
        file, starts = _opened(place.data, place.data.stat().st_mtime_ns)
        # Row groups `first` to `end` hold the episode; a group begins at each of `starts`.
        first = int(np.searchsorted(starts, place.first_row, side="right")) - 1
        end = int(np.searchsorted(starts[:-1], place.first_row + place.length, side="left"))
        table = file.read_row_groups(list(range(first, end)), columns=names)
        table = table.slice(place.first_row - int(starts[first]), place.length)
        if len(table) != place.length:
            raise KibanError(f"{place.data}: holds {len(table)} of the {place.length} frames of episode {number}")
        return table.replace_schema_metadata(None)

    def _shown(self, number: int, name: str) -> Values:
        place = self.episodes[number]
        path, first = place.videos[name]
        frames = video.decode(path, first, place.length, str(path))
        if frames.shape[1:] != self.features[name].picture_shape:
            raise KibanError(f"{path}: pictures of {frames.shape[1:]}, not of {self.features[name].picture_shape}")
        return frames


@lru_cache(maxsize=16)
def _opened(path: Path, changed: int) -> tuple[pq.ParquetFile, NDArray[np.int64]]:
    """A file, and where its row groups begin and end. Its footer, long where episodes are many, is read once."""
    file = pq.ParquetFile(path)
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return file, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
