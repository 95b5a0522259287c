"""What is wrong with a dataset is found, and said in one line that says where."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.robotics import video
from kiban.robotics.conversion import WRITERS
from kiban.robotics.dataset import Dataset
from kiban.robotics.features import RECORDED_AT, Feature, encode
from kiban.robotics.inspection import check, problems, timing
from kiban.robotics.layout import V21
from kiban.robotics.lerobot_v3 import DatasetWriter
from tests.robotics import small_datasets as datasets
from tests.robotics.small_datasets import FRONT, WRIST

QUIET = Progress(quiet=True)
DATA = "data/chunk-000/file-000.parquet"


def change_info(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def change_rows(folder: Path, change: Callable[[pa.Table], pa.Table], name: str = DATA) -> None:
    table = pq.read_table(folder / name)
    pq.write_table(change(table), folder / name, row_group_size=5)


def replaced(table: pa.Table, name: str, values: object) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def with_nan(table: pa.Table) -> pa.Table:
    rows = table["observation.state"].to_pylist()
    rows[6][2] = float("nan")
    return replaced(table, "observation.state", pa.array(rows, pa.list_(pa.float32(), 4)))


def twice_as_fast(table: pa.Table) -> pa.Table:
    times = table["timestamp"].to_numpy().copy()
    times[5:12] /= 2
    return replaced(table, "timestamp", pa.array(times))


def cut_png(table: pa.Table) -> pa.Table:
    rows = table[FRONT].to_pylist()
    rows[13]["bytes"] = rows[13]["bytes"][:-40]
    return replaced(table, FRONT, pa.array(rows, table[FRONT].type))


def wrong_file(table: pa.Table) -> pa.Table:
    """As at the border of two files: the entry of episode 1 names the rows of another one."""
    return replaced(table, "dataset_from_index", pa.array([0, 9, 12]))


IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing camera": (
        lambda f: change_rows(f, lambda t: t.drop_columns([WRIST])),
        "the camera 'observation.images.wrist' is in meta/info.json, but there are no data of it",
    ),
    "NaN state": (
        lambda f: change_rows(f, with_nan),
        "file-000.parquet: episode 1: 'observation.state' (tool.x) is nan at frame 1",
    ),
    "wrong shape": (
        lambda f: change_info(f, lambda i: i["features"]["action"].update(shape=[3])),
        "episode 0: 'action': 10 numbers in 5 frames, which are not of the shape (3,)",
    ),
    "wrong picture": (
        lambda f: change_info(f, lambda i: i["features"][FRONT].update(shape=[24, 64, 3])),
        "episode 0: 'observation.images.front': frame 0 is 48x64, where meta/info.json says 24x64",
    ),
    "two fps": (
        lambda f: change_rows(f, twice_as_fast),
        "episode 1: from frame 1 on its frames are 40 a second, where meta/info.json says 20 fps",
    ),
    "truncated PNG": (
        lambda f: change_rows(f, cut_png),
        "episode 2: 'observation.images.front': frame 1: the PNG is tr",
    ),
    "wrong rows": (
        lambda f: change_rows(f, wrong_file, "meta/episodes/chunk-000/file-000.parquet"),
        "episode 1: the rows that it points at are of episode [1, 2]: its entry names the wrong file or rows",
    ),
    "no file": (lambda f: (f / DATA).unlink(), "not a whole LeRobot dataset"),
    "wrong counts": (
        lambda f: change_info(f, lambda i: i.update(total_frames=99)),
        "info.json: total_frames is 99, but there are 16",
    ),
    "odd fps": (lambda f: change_info(f, lambda i: i.update(fps=29.97)), "fps is 29.97, not a whole number"),
    "no fps": (lambda f: change_info(f, lambda i: i.pop("fps")), "not as LeRobot v3.0 has it: KeyError 'fps'"),
}


@pytest.mark.parametrize("spoilt", IMAGES)
def test_a_spoilt_dataset_of_images_is_found_out(tmp_path: Path, spoilt: str) -> None:
    datasets.write(tmp_path)
    spoil, said = IMAGES[spoilt]
    spoil(tmp_path)
    found = problems(tmp_path, QUIET)
    assert found and said in found[0] and str(tmp_path) in found[0] and "\n" not in found[0]
    with pytest.raises(KibanError) as raised:
        check(tmp_path, QUIET)
    assert said in str(raised.value)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def other_episode(folder: Path) -> None:
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(replaced(table, f"videos/{FRONT}/from_timestamp", pa.array([0.0, 0.35, 0.6])), path)


VIDEO = f"videos/{FRONT}/chunk-000/file-000.mp4"
VIDEOS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated mp4": (lambda f: truncated(f / VIDEO), "file-000.mp4: not a whole video"),
    "another fps": (
        lambda f: (f / VIDEO).write_bytes(video.encode(np.zeros((16, 48, 64, 3), np.uint8), 30)),
        "file-000.mp4: 30 fps, where meta/info.json says 20",
    ),
    "another size": (
        lambda f: (f / VIDEO).write_bytes(video.encode(np.zeros((16, 32, 64, 3), np.uint8), 20)),
        "file-000.mp4: pictures of 32x64, where meta/info.json says 48x64",
    ),
    "too short": (
        lambda f: (f / VIDEO).write_bytes(video.encode(np.zeros((14, 48, 64, 3), np.uint8), 20)),
        "file-000.mp4: episode 2 points at its frames 12 to 16, where frame 12 comes next and 14 are there",
    ),
    "another episode's time": (
        other_episode,
        "file-000.mp4: episode 1 points at its frames 7 to 14, where frame 5 comes next",
    ),
    "missing camera": (lambda f: (f / VIDEO).unlink(), "the camera 'observation.images.front' is in meta/info.json"),
}


@pytest.mark.parametrize("spoilt", VIDEOS)
def test_a_spoilt_dataset_of_videos_is_found_out(tmp_path: Path, spoilt: str) -> None:
    datasets.write(tmp_path, videos=True)
    spoil, said = VIDEOS[spoilt]
    spoil(tmp_path)
    found = problems(tmp_path, QUIET)
    assert found and said in found[0] and str(tmp_path) in found[0] and "\n" not in found[0]


def test_a_video_that_begins_well_and_is_cut_off_is_found_out(tmp_path: Path) -> None:
    """With the index at the front a truncated mp4 opens; its pictures are missing all the same."""
    datasets.write(tmp_path, V21, videos=True)
    path = tmp_path / f"videos/chunk-000/{FRONT}/episode_000001.mp4"
    fast = tmp_path / "fast.mp4"
    with av.open(str(path)) as source, av.open(str(fast), "w", options={"movflags": "faststart"}) as out:
        copied = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copied
                out.mux(packet)
    fast.replace(path)
    assert problems(tmp_path, QUIET) == []
    truncated(path)
    [found] = problems(tmp_path, QUIET)
    assert "episode_000001.mp4" in found and "restore it" in found


@pytest.mark.parametrize("layout", list(WRITERS))
@pytest.mark.parametrize("videos", [False, True], ids=["images", "videos"])
def test_nothing_is_wrong_with_what_we_write(tmp_path: Path, layout: str, videos: bool) -> None:
    datasets.write(tmp_path, layout, videos)
    assert problems(tmp_path, QUIET) == []
    assert timing(Dataset(tmp_path)) is None


def test_time_is_compared_with_what_it_should_be(tmp_path: Path) -> None:
    features = {"action": Feature("float32", (1,)), RECORDED_AT: Feature("float64", (1,))}
    writer = DatasetWriter(tmp_path, features, 20, "test-arm")
    for periods in ([0.05] * 10, [0.05, 0.05, 0.16, 0.05, 0.05]):  # the second one drops two
        recorded = 1.8e9 + np.cumsum([0, *periods])
        frames = {"action": np.zeros((len(recorded), 1), np.float32), RECORDED_AT: recorded[:, None]}
        writer.add(encode(features, frames, "青い円柱を取って"))
    writer.finish()
    found = timing(Dataset(tmp_path))
    assert found is not None
    assert (found.nominal_fps, found.dropped) == (20, 2)
    assert found.real_fps == pytest.approx(15 / 0.86, rel=1e-4) and found.drift_s == pytest.approx(0.11, abs=1e-4)
    assert "17.44 fps where 20 are meant" in str(found)
