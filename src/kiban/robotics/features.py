"""What a dataset's frames hold: features, one episode of them encoded, and back to arrays. No layout of files yet.

An episode is encoded where it was recorded, so that many processes can record, and numbered where it is written.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from kiban.artifacts.errors import KibanError

STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."

# When a frame was really taken: seconds since 1970. Its name begins with neither `observation` nor `action`, so that no
# policy of lerobot's takes it for an input.
RECORDED_AT = "recorded_at"

Values = NDArray[Any]


@dataclass(frozen=True)
class Feature:
    """One column of a dataset, as `features` in info.json has it.

    `dtype` is numpy's name, `string`, or `image` (PNG) or `video` (mp4) for uint8 frames of `shape` (height, width,
    channels). `names` are those of the numbers in a vector, `fps` is for a video alone. `described` is the entry in
    info.json where it was read.
    """

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None
    fps: int | None = None
    described: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def is_picture(self) -> bool:
        return self.dtype in ("image", "video")

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """(height, width, channels): some datasets say (channels, height, width)."""
        channels_first = self.names is not None and self.names[0] in ("channel", "channels")
        return (*self.shape[1:], self.shape[0]) if channels_first else self.shape

    @property
    def is_number(self) -> bool:
        return not self.is_picture and self.dtype not in ("string", "language")

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> "Feature":
        """From its entry in info.json, whose `names` may be a list, or lists by group."""
        names = entry.get("names")
        if isinstance(names, dict):
            names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
        fps = (
            ((entry.get("info") or entry.get("video_info") or {}).get("video.fps"))
            if entry["dtype"] == "video"
            else None
        )
        shape = tuple(int(size) for size in entry["shape"])
        return cls(entry["dtype"], shape, tuple(map(str, names)) if names else None, fps and round(fps), entry)

    def description(self) -> dict[str, Any]:
        """The entry in info.json."""
        if self.described is not None:
            return dict(self.described)
        entry: dict[str, Any] = {
            "dtype": self.dtype,
            "shape": list(self.shape),
            "names": list(self.names) if self.names else None,
        }
        if self.dtype == "video":
            from kiban.robotics.video import CODEC_NAME, PIXEL_FORMAT

            height, width, channels = self.picture_shape
            entry["info"] = {
                "video.height": height,
                "video.width": width,
                "video.channels": channels,
                "video.codec": CODEC_NAME,
                "video.pix_fmt": PIXEL_FORMAT,
                "video.fps": self.fps,
                "video.is_depth_map": False,
                "has_audio": False,
            }
        return entry


COUNTERS = {
    "timestamp": Feature("float32", (1,)),  # s since the episode began: frame_index / fps
    "frame_index": Feature("int64", (1,)),
    "episode_index": Feature("int64", (1,)),
    "index": Feature("int64", (1,)),
    "task_index": Feature("int64", (1,)),
}


def image(height: int, width: int) -> Feature:
    return Feature("image", (height, width, 3), ("height", "width", "channels"))


def video(height: int, width: int, fps: int) -> Feature:
    return Feature("video", (height, width, 3), ("height", "width", "channels"), fps)


@dataclass(frozen=True)
class Episode:
    """One episode, encoded.

    `table` has a row a frame: a column for each feature that is no video, and `task`, the sentence. `videos` are mp4
    files by feature. `levels` counts the pixels of each picture feature by brightness, [channels, 256], as a reader
    gets them (a video's after its loss).
    """

    table: pa.Table
    videos: dict[str, bytes]
    levels: dict[str, NDArray[np.int64]]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def tasks(self) -> list[str]:
        """In the order in which they come."""
        return list(dict.fromkeys(self.table["task"].to_pylist()))


def encode(features: Mapping[str, Feature], frames: Mapping[str, Values], task: str) -> Episode:
    """One episode: `frames` has each of `features`, of shape [frames, *feature.shape].

    Raises:
        KibanError: if a feature is missing, has another shape or type, or holds NaN.
    """
    lengths = {len(values) for values in frames.values()}
    if set(frames) != set(features) or len(lengths) != 1 or lengths == {0}:
        raise KibanError(f"episode '{task}': has {sorted(frames)} of lengths {sorted(lengths)}, not {sorted(features)}")
    columns: dict[str, pa.Array] = {}
    videos: dict[str, bytes] = {}
    levels: dict[str, NDArray[np.int64]] = {}
    for name, feature in features.items():
        values = frames[name]
        dtype = "uint8" if feature.is_picture else feature.dtype
        if values.shape[1:] != feature.shape or values.dtype != dtype:
            raise KibanError(
                f"episode '{task}': '{name}' is {values.dtype} {values.shape[1:]}, not {dtype} {feature.shape}"
            )
        if feature.dtype == "video":
            from kiban.robotics import video as videos_

            assert feature.fps is not None
            videos[name] = videos_.encode(values, feature.fps)
            levels[name] = pixel_levels(videos_.decode(io.BytesIO(videos[name]), 0, len(values), name))
        elif feature.dtype == "image":
            columns[name] = _images(values)
            levels[name] = pixel_levels(values)
        else:
            if not np.isfinite(values).all():
                raise KibanError(f"episode '{task}': '{name}' holds NaN or infinity; drop the episode")
            columns[name] = _vectors(values)
    [length] = lengths
    columns["task"] = pa.array([task] * length, pa.string())
    return Episode(pa.table(columns), videos, levels)


def _images(frames: Values) -> pa.Array:
    encoded = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "PNG", compress_level=1)
        encoded.append(buffer.getvalue())
    paths = [f"frame-{index:06d}.png" for index in range(len(frames))]
    return pa.StructArray.from_arrays([pa.array(encoded, pa.binary()), pa.array(paths, pa.string())], ["bytes", "path"])


def arrow_type(feature: Feature) -> pa.DataType:
    """A scalar of a shape (1,), a list of a fixed size of a vector, lists of lists of more: as lerobot's reader casts
    them. PNG bytes of an image."""
    if feature.dtype == "image":
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kind = {"bool": pa.bool_(), "string": pa.string()}.get(feature.dtype)
    kind = pa.from_numpy_dtype(np.dtype(feature.dtype)) if kind is None else kind
    if len(feature.shape) == 1:
        return kind if feature.shape == (1,) else pa.list_(kind, feature.shape[0])
    for _ in feature.shape:
        kind = pa.list_(kind)
    return kind


def _vectors(values: Values) -> pa.Array:
    flat = pa.array(values.ravel())
    if values.shape[1:] == (1,):
        return flat
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    for size in reversed(values.shape[1:]):
        flat = pa.ListArray.from_arrays(np.arange(0, len(flat) + 1, size, dtype=np.int32), flat)
    return flat


def decoded(column: pa.ChunkedArray, feature: Feature, where: str) -> Values:
    """A column as an array [frames, *shape]; pictures as [frames, height, width, channels], text as objects.

    Raises:
        KibanError: if what the column holds has not the feature's shape, or a picture cannot be read.
    """
    combined = column.combine_chunks()
    if feature.dtype == "image":
        return _pictures(combined, feature, where)
    if not feature.is_number:
        return np.array(combined.to_pylist(), dtype=object).reshape(-1, 1)
    rows = len(combined)
    while pa.types.is_list(combined.type) or pa.types.is_fixed_size_list(combined.type):
        combined = combined.flatten()
    flat = combined.to_numpy(zero_copy_only=False)
    if len(flat) != rows * int(np.prod(feature.shape)):
        raise KibanError(f"{where}: {len(flat)} numbers in {rows} frames, which are not of the shape {feature.shape}")
    return flat.reshape(rows, *feature.shape)


def _pictures(column: pa.Array, feature: Feature, where: str) -> Values:
    frames = np.empty((len(column), *feature.picture_shape), np.uint8)
    for row, encoded in enumerate(column.field("bytes")):
        try:
            picture = np.asarray(Image.open(io.BytesIO(encoded.as_py())))
        except (OSError, SyntaxError, TypeError) as error:
            raise KibanError(f"{where}: frame {row}: not a picture that can be read ({error}); restore it") from None
        if picture.size != frames[row].size or picture.shape[:2] != frames.shape[1:3]:
            raise KibanError(f"{where}: frame {row}: a picture of {picture.shape}, not of {frames.shape[1:]}")
        frames[row] = picture.reshape(frames.shape[1:])
    return frames


def pixel_levels(frames: Values) -> NDArray[np.int64]:
    """How many pixels have each brightness: [channels, 256], of frames uint8 [frames, height, width, channels]."""
    return np.stack([np.bincount(frames[..., c].ravel(), minlength=256) for c in range(frames.shape[-1])])
