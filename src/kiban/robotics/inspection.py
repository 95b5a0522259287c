"""Finds what is wrong with a dataset before anybody trains on it: one line each, saying where.

Looked at are every number, the size and the end of every PNG, and every video's frames (its last ones decoded).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.robotics import layout, video
from kiban.robotics.dataset import Dataset
from kiban.robotics.features import RECORDED_AT, Feature, Values, decoded

TOLERANCE_S = 1e-4  # between a frame's time and frame_index / fps; lerobot's own
MOST = 50  # problems that are listed

PNG_BEGIN, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class Timing:
    """How the frames were really timed, over all episodes.

    `jitter_s` is the standard deviation of the periods, `late_s` their 99th percentile above the nominal one; a period
    of 1.5 nominal ones or more has dropped some."""

    nominal_fps: float
    real_fps: float
    jitter_s: float
    late_s: float
    dropped: int
    drift_s: float  # at the end of an episode, the greatest difference between real and nominal time

    def __str__(self) -> str:
        return (
            f"{self.real_fps:.2f} fps where {self.nominal_fps:g} are meant; jitter {1000 * self.jitter_s:.1f} ms, "
            f"1 % of periods over {1000 * self.late_s:.1f} ms late, {self.dropped} periods dropped, "
            f"drift at most {self.drift_s:.3f} s in an episode"
        )


def timing(dataset: Dataset) -> Timing | None:
    """From the column `recorded_at`; None if the dataset has none, or no episode of two frames."""
    if RECORDED_AT not in dataset.features:
        return None
    times = [dataset.episode(number, [RECORDED_AT])[RECORDED_AT][:, 0] for number in range(len(dataset.episodes))]
    times = [each for each in times if len(each) > 1]
    if not times:
        return None
    nominal = 1 / dataset.fps
    periods = np.concatenate([np.diff(each) for each in times])
    return Timing(
        nominal_fps=dataset.fps,
        real_fps=float(1 / periods.mean()) if periods.mean() > 0 else 0.0,
        jitter_s=float(periods.std()),
        late_s=float(np.quantile(periods, 0.99) - nominal),
        dropped=int(np.maximum(np.rint(periods[periods >= 1.5 * nominal] / nominal) - 1, 0).sum()),
        drift_s=float(max(abs(each[-1] - each[0] - (len(each) - 1) * nominal) for each in times)),
    )


def problems(folder: Path, progress: Progress) -> list[str]:
    """At most MOST of them; none if all is well."""
    found: list[str] = []
    try:
        for problem in _all(folder, progress):
            found.append(problem)
            if len(found) == MOST:
                break
    except KibanError as error:
        found.append(str(error))
    return found


def check(folder: Path, progress: Progress) -> None:
    """Raises KibanError, saying the first of them and how many there are."""
    found = problems(folder, progress)
    if found:
        more = f" (and {len(found) - 1} more: `kiban robot inspect {folder}` lists them)" if len(found) > 1 else ""
        raise KibanError(found[0] + more)


def _all(folder: Path, progress: Progress) -> Iterator[str]:
    layout.read(folder)  # says what is wrong with it, before the features are looked at
    dataset = Dataset(folder)
    yield from _counts(dataset)
    missing = [name for name in dataset.features if _is_missing(dataset, name)]
    for name in missing:
        camera = "camera" if dataset.features[name].is_picture else "feature"
        yield f"{folder}: the {camera} '{name}' is in meta/info.json, but there are no data of it"
    present = {name: feature for name, feature in dataset.features.items() if name not in missing}
    total = len(dataset.episodes)
    with progress.task(f"inspecting {folder.name}", total, "episodes") as bar:
        for number in range(total):
            yield from _episode(dataset, number, present)
            bar.advance()
    for name, feature in present.items():
        if feature.dtype == "video":
            yield from _videos(dataset, name)
    yield from _statistics(dataset, present)


def _counts(dataset: Dataset) -> Iterator[str]:
    where = f"{dataset.folder}/meta/info.json"
    rows: dict[Path, int] = {}
    for number, place in enumerate(dataset.episodes):
        if not place.data.is_file():
            yield f"{place.data}: missing; episode {number} should be in it"
        rows[place.data] = rows.get(place.data, 0) + place.length
    for path, expected in rows.items():
        if path.is_file() and (held := pq.read_metadata(path).num_rows) != expected:
            yield f"{path}: holds {held} frames, where its episodes have {expected}"
    for key, value in (("total_episodes", len(dataset.episodes)), ("total_frames", len(dataset))):
        if dataset.info.get(key) != value:
            yield f"{where}: {key} is {dataset.info.get(key)}, but there are {value}"


def _is_missing(dataset: Dataset, name: str) -> bool:
    if dataset.features[name].dtype == "video":
        return not any(place.videos[name][0].is_file() for place in dataset.episodes)
    return all(name not in pq.read_schema(path).names for path in {place.data for place in dataset.episodes})


def _episode(dataset: Dataset, number: int, features: dict[str, Feature]) -> Iterator[str]:
    place = dataset.episodes[number]
    where = f"{place.data}: episode {number}"
    columns = [name for name, feature in features.items() if feature.dtype != "video"]
    try:
        table = dataset.rows(number, columns)
    except (KibanError, OSError, pa.ArrowInvalid, KeyError) as error:
        yield f"{where}: cannot be read ({error})"
        return
    values: dict[str, Values] = {}
    for name in columns:
        feature = features[name]
        if feature.dtype == "image":
            yield from _png(table[name], feature, f"{where}: '{name}'")
        elif feature.is_number:
            try:
                values[name] = decoded(table[name], feature, f"{where}: '{name}'")
            except KibanError as error:
                yield str(error)
                continue
            yield from _numbers(values[name], name, feature, where)
    held = np.unique(values["episode_index"]).tolist() if "episode_index" in values else []
    if held != [number]:
        yield f"{where}: the rows that it points at are of episode {held}: its entry names the wrong file or rows"
        return
    if "frame_index" in values and not np.array_equal(values["frame_index"][:, 0], np.arange(place.length)):
        yield f"{where}: frame_index does not count from 0 to {place.length - 1}"
    if "task_index" in values and not (
        0 <= values["task_index"].min() <= values["task_index"].max() < len(dataset.tasks)
    ):
        yield f"{where}: a task_index has no sentence in meta/tasks"
    if "timestamp" in values:
        times = values["timestamp"][:, 0].astype(np.float64)
        wrong = np.abs(times - np.arange(place.length) / dataset.fps) > TOLERANCE_S
        if wrong.any():
            period = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
            said = f"its frames are {1 / period:.4g} a second" if period > 0 else "its time stands still"
            yield f"{where}: from frame {int(wrong.argmax())} on {said}, where meta/info.json says {dataset.fps} fps"


def _numbers(values: Values, name: str, feature: Feature, where: str) -> Iterator[str]:
    bad = ~np.isfinite(values.astype(np.float64))
    if bad.any():
        frame, *rest = (int(index) for index in np.argwhere(bad)[0])
        which = (
            f" ({feature.names[rest[0]]})" if feature.names and len(rest) == 1 and rest[0] < len(feature.names) else ""
        )
        yield f"{where}: '{name}'{which} is {values[(frame, *rest)]} at frame {frame}, one of {int(bad.sum())} such"


def _png(column: pa.ChunkedArray, feature: Feature, where: str) -> Iterator[str]:
    """The size that its header says, and whether it is there to its end: without decoding it."""
    height, width = feature.picture_shape[:2]
    for frame, content in enumerate(column.combine_chunks().field("bytes")):
        picture = content.as_py()
        if picture is None or not picture.startswith(PNG_BEGIN):
            yield f"{where}: frame {frame} is no PNG"
        elif not picture.endswith(PNG_END):
            yield f"{where}: frame {frame}: the PNG is truncated"
        else:
            found = int.from_bytes(picture[20:24]), int.from_bytes(picture[16:20])
            if found == (height, width):
                continue
            yield f"{where}: frame {frame} is {found[0]}x{found[1]}, where meta/info.json says {height}x{width}"
        return


def _videos(dataset: Dataset, name: str) -> Iterator[str]:
    """Each file once: whether it is whole, of the right size and fps, and what its episodes say of it."""
    height, width = dataset.features[name].picture_shape[:2]
    shown: dict[Path, list[tuple[int, int, int]]] = {}  # first frame, end, episode
    for number, place in enumerate(dataset.episodes):
        path, first = place.videos[name]
        shown.setdefault(path, []).append((first, first + place.length, number))
    for path, episodes in shown.items():
        try:
            found = video.probe(path, str(path))
        except KibanError as error:
            yield str(error)
            continue
        if (found.height, found.width) != (height, width):
            yield f"{path}: pictures of {found.height}x{found.width}, where meta/info.json says {height}x{width}"
        if found.fps != Fraction(dataset.fps):
            yield f"{path}: {float(found.fps):g} fps, where meta/info.json says {dataset.fps}"
        expected = 0
        for first, end, number in sorted(episodes):
            if first != expected or end > found.frames:
                yield (
                    f"{path}: episode {number} points at its frames {first} to {end}, where frame {expected} comes "
                    f"next and {found.frames} are there: its entry names the wrong file or time"
                )
                break
            expected = end


def _statistics(dataset: Dataset, features: dict[str, Feature]) -> Iterator[str]:
    where = f"{dataset.folder}/meta/stats.json"
    for name, feature in features.items():
        if not feature.is_picture and not feature.is_number:
            continue
        if name not in dataset.stats:
            yield f"{where}: no statistics of '{name}'; nothing can be normalised without"
            continue
        size = feature.picture_shape[-1] if feature.is_picture else int(np.prod(feature.shape))
        for statistic in ("mean", "std"):
            values = np.ravel(np.array(dataset.stats[name].get(statistic, []), np.float64))
            if len(values) != size or not np.isfinite(values).all():
                yield f"{where}: '{statistic}' of '{name}' is not {size} numbers"
