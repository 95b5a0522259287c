"""The dataset layout: what is written is read back, and is what readers of LeRobot v3.0 expect."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kiban.artifacts.errors import KibanError
from kiban.robotics import lerobot_v3
from kiban.robotics.dataset import Dataset
from kiban.robotics.features import COUNTERS, Feature, encode, image
from kiban.robotics.frame_statistics import QUANTILES
from kiban.robotics.lerobot_v3 import DatasetWriter

FEATURES = {
    "observation.state": Feature("float32", (3,), ("a", "b", "c")),
    "action": Feature("float32", (2,), ("dx", "dy")),
    "observation.images.front": image(6, 8),
}
TASKS = ["赤い箱を押して", "青い円柱を取ってください", "赤い箱を押して"]


def frames(length: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "observation.state": rng.normal(size=(length, 3)).astype(np.float32),
        "action": rng.normal(size=(length, 2)).astype(np.float32),
        "observation.images.front": rng.integers(0, 256, (length, 6, 8, 3), dtype=np.uint8),
    }


def write(folder: Path) -> list[dict[str, np.ndarray]]:
    episodes = [frames(length, seed) for seed, length in enumerate((5, 7, 4))]
    writer = DatasetWriter(folder, FEATURES, fps=20, robot_type="test-arm")
    for episode, task in zip(episodes, TASKS, strict=True):
        writer.add(encode(FEATURES, episode, task))
    writer.finish()
    return episodes


@pytest.mark.parametrize("file_mb", [100, 0], ids=["one file", "a file an episode"])
def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_mb: int) -> None:
    monkeypatch.setattr(lerobot_v3, "FILE_MB", file_mb)
    episodes = write(tmp_path)
    assert len(list(tmp_path.glob("data/chunk-000/*.parquet"))) == (1 if file_mb else 3)
    dataset = Dataset(tmp_path)
    for name in FEATURES:
        assert np.array_equal(dataset.frames(name), np.concatenate([episode[name] for episode in episodes]))
    assert dataset.features == FEATURES | COUNTERS
    assert [dataset.tasks[i] for i in dataset.frames("task_index")[:, 0]] == [TASKS[0]] * 5 + [TASKS[1]] * 7 + [
        TASKS[0]
    ] * 4
    assert dataset.frames("index")[:, 0].tolist() == list(range(16))
    assert dataset.frames("frame_index")[:, 0].tolist() == [*range(5), *range(7), *range(4)]
    assert np.allclose(dataset.frames("timestamp")[:, 0], dataset.frames("frame_index")[:, 0] / 20)
    rows = pq.read_table(tmp_path / "meta/episodes").to_pylist()
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in rows] == [(0, 5), (5, 12), (12, 16)]
    assert [row["data/file_index"] for row in rows] == ([0, 0, 0] if file_mb else [0, 1, 2])


def test_the_same_episodes_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 5
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_pandas_finds_the_tasks_where_readers_look(tmp_path: Path) -> None:
    write(tmp_path)
    tasks = pd.read_parquet(tmp_path / "meta/tasks.parquet")
    assert tasks.index.name == "task" and list(tasks.columns) == ["task_index"]
    assert tasks["task_index"].dtype == np.int64
    assert [tasks.iloc[i].name for i in range(len(tasks))] == TASKS[:2]
    expected = pd.DataFrame({"task_index": range(2)}, index=pd.Index(TASKS[:2], name="task"))
    pd.testing.assert_frame_equal(tasks, expected, check_index_type=False)


def test_the_files_are_laid_out_as_lerobot_has_them(tmp_path: Path) -> None:
    episodes = write(tmp_path)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["fps"] == 20
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 16, 2)
    assert info["features"]["observation.images.front"] == {
        "dtype": "image",
        "shape": [6, 8, 3],
        "names": ["height", "width", "channels"],
    }
    assert {"timestamp", "frame_index", "episode_index", "index", "task_index"} <= set(info["features"])
    data = pq.ParquetFile(tmp_path / info["data_path"].format(chunk_index=0, file_index=0))
    assert data.num_row_groups == 3
    kinds = {field.name: str(field.type) for field in data.schema_arrow}
    assert kinds["observation.state"].startswith("fixed_size_list<") and kinds["observation.state"].endswith("[3]")
    assert kinds["observation.images.front"] == "struct<bytes: binary, path: string>"
    assert (kinds["timestamp"], kinds["index"]) == ("float", "int64")
    first = data.read_row_group(0)["observation.images.front"][0].as_py()
    pixels = np.asarray(Image.open(io.BytesIO(first["bytes"])))
    assert np.array_equal(pixels, episodes[0]["observation.images.front"][0])


def test_statistics_are_those_of_all_frames(tmp_path: Path) -> None:
    episodes = write(tmp_path)
    stats = json.loads((tmp_path / "meta/stats.json").read_text())
    state = np.concatenate([episode["observation.state"] for episode in episodes]).astype(np.float64)
    assert np.allclose(stats["observation.state"]["mean"], state.mean(0))
    assert np.allclose(stats["observation.state"]["std"], state.std(0))
    assert np.allclose(stats["observation.state"]["q90"], np.quantile(state, 0.9, axis=0))
    pixels = np.concatenate([episode["observation.images.front"] for episode in episodes]).reshape(-1, 3) / 255
    ours = {name: np.array(value) for name, value in stats["observation.images.front"].items()}
    assert ours["mean"].shape == (3, 1, 1) and ours["count"].tolist() == [16]
    for name, value in (
        ("mean", pixels.mean(0)),
        ("std", pixels.std(0)),
        ("min", pixels.min(0)),
        ("max", pixels.max(0)),
    ):
        assert np.allclose(ours[name].ravel(), value), name
    for name, q in QUANTILES.items():
        assert np.allclose(ours[name].ravel(), np.quantile(pixels, q, axis=0, method="inverted_cdf")), name
    episode = Dataset(tmp_path).episode_stats[1]
    assert np.allclose(episode["action"]["max"], episodes[1]["action"].max(0))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.pop("action"), "has .*not \\['action'"),
        (lambda f: f["observation.state"].__setitem__((0, 0), np.nan), "'observation.state' holds NaN"),
        (lambda f: f.update(action=np.zeros((5, 3), np.float32)), "'action' is float32 \\(3,\\), not float32 \\(2,\\)"),
        (lambda f: f.update(action=f["action"][:4]), "of lengths \\[4, 5\\]"),
    ],
)
def test_a_spoilt_episode_is_refused(spoil: object, message: str) -> None:
    episode = frames(5, 0)
    spoil(episode)  # type: ignore[operator]
    with pytest.raises(KibanError, match=message):
        encode(FEATURES, episode, "赤い箱を押して")


def test_a_dataset_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(KibanError, match="has no 'observation.images.wrist'; it has observation.state"):
        Dataset(tmp_path).frames("observation.images.wrist")
    data = tmp_path / "data/chunk-000/file-000.parquet"
    whole = data.read_bytes()
    data.write_bytes(whole[:-100])
    with pytest.raises(KibanError, match="not a whole LeRobot dataset"):
        Dataset(tmp_path)
    data.write_bytes(whole)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    (tmp_path / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v1.6"}))
    with pytest.raises(KibanError, match="LeRobot dataset v1.6; v3.0, v2.1 and v2.0 are read"):
        Dataset(tmp_path)
