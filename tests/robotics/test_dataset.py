"""Both layouts, with images and with videos: what is written is read back, whole, by episode, or shuffled, and turned
into the other layout and back without loss."""

import datetime
import io
import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.artifacts.rights import Rights
from kiban.robotics import lerobot_v3, video
from kiban.robotics.conversion import WRITERS, convert
from kiban.robotics.dataset import Dataset
from kiban.robotics.dataset_terms import Terms, require
from kiban.robotics.features import COUNTERS, Episode, encode, pixel_levels
from kiban.robotics.layout import V3, V21
from tests.commands import error_of
from tests.robotics import small_datasets as datasets
from tests.robotics.small_datasets import FRONT, LENGTHS, TASKS, WRIST

QUIET = Progress(quiet=True)


def signal_to_noise(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal to noise, dB."""
    return float(10 * np.log10(255**2 / ((first.astype(float) - second) ** 2).mean()))


def files(folder: Path) -> dict[str, object]:
    """The bytes of each file; of a video its packets, since the container around them may say less."""
    return {
        path.relative_to(folder).as_posix(): packets(path) if path.suffix == ".mp4" else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def packets(path: Path) -> list[tuple[int, bytes]]:
    with av.open(str(path)) as container:
        return [(packet.pts, bytes(packet)) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("layout", list(WRITERS))
@pytest.mark.parametrize("videos", [False, True], ids=["images", "videos"])
def test_what_is_written_is_read_back(tmp_path: Path, layout: str, videos: bool) -> None:
    episodes = datasets.write(tmp_path, layout, videos)
    dataset = Dataset(tmp_path)
    assert dataset.features == datasets.features(videos) | COUNTERS
    assert (len(dataset), len(dataset.episodes), dataset.tasks) == (16, 3, TASKS[:2])
    assert (dataset.fps, dataset.robot_type) == (20, "test-arm")
    for name in datasets.features():
        given = np.concatenate([episode[name] for episode in episodes])
        read = dataset.frames(name)
        second = dataset.episode(1, [name])[name]
        assert read.shape == given.shape and np.array_equal(second, read[5:12])
        if videos and name in (FRONT, WRIST):
            assert 28 < signal_to_noise(read, given) < 60
        else:
            assert np.array_equal(read, given)
    sentences = [dataset.tasks[index] for index in dataset.frames("task_index")[:, 0]]
    assert sentences == [task for task, length in zip(TASKS, LENGTHS, strict=True) for _ in range(length)]
    assert np.allclose(dataset.frames("timestamp")[:, 0], dataset.frames("frame_index")[:, 0] / 20)
    shown = dataset.frames(FRONT) / 255
    assert np.allclose(np.ravel(dataset.stats[FRONT]["mean"]), shown.mean((0, 1, 2)))
    assert np.allclose(dataset.stats["observation.force"]["std"], dataset.frames("observation.force").std(0))
    assert dataset.terms is not None and dataset.terms.partners == ("robots",)


@pytest.mark.parametrize("layout", list(WRITERS))
def test_a_shuffled_reading_has_every_frame_once_in_an_order_of_its_seed(tmp_path: Path, layout: str) -> None:
    datasets.write(tmp_path, layout)
    dataset = Dataset(tmp_path)

    def order(**how: int) -> list[int]:
        return [int(frame["index"][0]) for frame in dataset.stream(["index"], **how)]

    assert order() == list(range(16))
    mixed = order(seed=3)
    assert sorted(mixed) == list(range(16)) and mixed != list(range(16))
    assert order(seed=3) == mixed != order(seed=4)
    apart = order(seed=3, window=1)  # no more than an episode in memory: each comes in one piece
    episodes = dataset.frames("episode_index")[apart, 0]
    assert np.count_nonzero(np.diff(episodes)) == 2
    frame = next(dataset.stream([FRONT, "action", "index"], seed=3))
    [index] = frame["index"]
    assert np.array_equal(frame[FRONT], dataset.frames(FRONT)[index])
    assert np.array_equal(frame["action"], dataset.frames("action")[index])


@pytest.mark.parametrize("videos", [False, True], ids=["images", "videos"])
@pytest.mark.parametrize(("layout", "other"), [(V3, V21), (V21, V3)])
def test_there_and_back_is_the_same_dataset(tmp_path: Path, layout: str, other: str, videos: bool) -> None:
    datasets.write(tmp_path / "first", layout, videos)
    assert convert([tmp_path / "first"], tmp_path / "between", other, None, QUIET) == 3
    convert([tmp_path / "between"], tmp_path / "again", layout, None, QUIET)
    assert files(tmp_path / "again") == files(tmp_path / "first")
    first, between = Dataset(tmp_path / "first"), Dataset(tmp_path / "between")
    assert between.info["codebase_version"] == other
    for name in first.features:
        assert np.array_equal(first.frames(name), between.frames(name)), name
    assert first.stats == between.stats and first.episode_stats == between.episode_stats
    assert first.terms == between.terms


def test_files_are_closed_above_a_size_and_videos_go_on_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FILE_MB", "VIDEO_MB"):
        monkeypatch.setattr(lerobot_v3, name, 0)
    monkeypatch.setattr(lerobot_v3, "CHUNK_FILES", 2)
    datasets.write(tmp_path / "many", videos=True)
    monkeypatch.undo()
    convert([tmp_path / "many"], tmp_path / "one", V3, None, QUIET)
    many, one = Dataset(tmp_path / "many"), Dataset(tmp_path / "one")
    assert (tmp_path / "many" / f"videos/{FRONT}/chunk-001/file-000.mp4").is_file()
    assert [place.videos[FRONT][1] for place in many.episodes] == [0, 0, 0]
    assert [place.videos[FRONT][1] for place in one.episodes] == [0, 5, 12]
    for name in one.features:
        assert np.array_equal(many.frames(name), one.frames(name)), name


def test_a_video_shows_frame_k_at_k_over_fps(tmp_path: Path) -> None:
    datasets.write(tmp_path, videos=True)
    with av.open(str(tmp_path / f"videos/{FRONT}/chunk-000/file-000.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
        assert times == [pytest.approx(k / 20, abs=1e-9) for k in range(16)]
        assert container.streams.video[0].average_rate == 20
    found = video.probe(tmp_path / f"videos/{FRONT}/chunk-000/file-000.mp4", "front")
    assert (found.frames, found.fps, found.height, found.width) == (16, 20, 48, 64)


def test_v21_is_laid_out_as_lerobot_and_gr00t_have_it(tmp_path: Path) -> None:
    datasets.write(tmp_path, V21, videos=True)
    assert set(files(tmp_path)) == {
        *(f"data/chunk-000/episode_{n:06d}.parquet" for n in range(3)),
        *(f"videos/chunk-000/{key}/episode_{n:06d}.mp4" for n in range(3) for key in (FRONT, WRIST)),
        *(f"meta/{name}.jsonl" for name in ("episodes", "episodes_stats", "tasks")),
        *(f"meta/{name}.json" for name in ("info", "stats", "modality", "kiban")),
    }
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert (info["codebase_version"], info["total_videos"], info["total_chunks"]) == ("v2.1", 6, 1)
    assert info["features"][FRONT]["info"]["video.fps"] == 20
    assert "\\u" not in (tmp_path / "meta/tasks.jsonl").read_text()
    lines = [json.loads(line) for line in (tmp_path / "meta/episodes.jsonl").read_text().splitlines()]
    assert lines[1] == {"episode_index": 1, "tasks": [TASKS[1]], "length": 7}
    assert json.loads((tmp_path / "meta/modality.json").read_text()) == {
        "state": {"joints": {"start": 0, "end": 2}, "tool": {"start": 2, "end": 4}},
        "action": {"tool": {"start": 0, "end": 1}, "gripper": {"start": 1, "end": 2}},
        "video": {"front": {"original_key": FRONT}, "wrist": {"original_key": WRIST}},
        "annotation": {"human.task_description": {"original_key": "task_index"}},
    }
    kinds = {
        field.name: str(field.type) for field in pq.read_schema(tmp_path / "data/chunk-000/episode_000000.parquet")
    }
    assert FRONT not in kinds and kinds["next.done"] == "bool"


def test_v20_is_read_and_foreign_entries_go_along(tmp_path: Path) -> None:
    """As others wrote it: v2.0, names by group, channels first, an entry of theirs, an episode with two sentences, no
    statistics over all frames, no terms."""
    datasets.write(tmp_path / "old", V21)
    meta = tmp_path / "old/meta"
    (meta / "kiban.json").unlink()
    (meta / "stats.json").unlink()
    info = json.loads((meta / "info.json").read_text())
    info |= {"codebase_version": "v2.0", "laboratory": "第三研究室"}
    info["features"]["action"]["names"] = {"motors": ["tool.dx", "gripper.opening"]}
    info["features"][FRONT] |= {"shape": [3, 48, 64], "names": ["channels", "height", "width"]}
    (meta / "info.json").write_text(json.dumps(info))
    data = tmp_path / "old/data/chunk-000/episode_000000.parquet"
    table = pq.read_table(data)
    where = table.schema.get_field_index("task_index")
    pq.write_table(table.set_column(where, "task_index", [[0, 0, 1, 1, 1]]), data)

    old = Dataset(tmp_path / "old")
    assert old.features["action"].names == ("tool.dx", "gripper.opening") and old.terms is None
    assert old.frames(FRONT).shape == (16, 48, 64, 3)
    exact = old.frames("observation.state").astype(np.float64)
    assert np.allclose(old.stats["observation.state"]["mean"], exact.mean(0))
    assert np.allclose(old.stats["observation.state"]["std"], exact.std(0))
    convert([tmp_path / "old"], tmp_path / "new", V3, None, QUIET)
    new = Dataset(tmp_path / "new")
    assert new.info["laboratory"] == "第三研究室" and new.info["features"]["action"] == info["features"]["action"]
    assert new.episodes[0].tasks == (TASKS[0], TASKS[1])
    assert new.frames("task_index")[:5, 0].tolist() == [0, 0, 1, 1, 1]
    assert np.array_equal(new.frames(FRONT), old.frames(FRONT)) and new.terms is None


def test_datasets_are_joined_under_what_all_their_terms_grant(tmp_path: Path) -> None:
    episodes = datasets.write(tmp_path / "ours")
    datasets.write(tmp_path / "theirs", V21)
    narrow = Terms(partners=("plant",), licences=("proprietary",), rights=Rights(uses=frozenset({"pretrain"})))
    narrow.write(tmp_path / "theirs")
    convert([tmp_path / "ours", tmp_path / "theirs"], tmp_path / "both", V3, None, QUIET)
    both = Dataset(tmp_path / "both")
    assert (len(both), len(both.episodes), len(both.tasks)) == (32, 6, 2)
    assert np.array_equal(both.frames("action")[16:21], episodes[0]["action"])
    assert both.frames("index")[:, 0].tolist() == list(range(32))
    assert both.terms is not None and both.terms.partners == ("robots", "plant")
    assert both.terms.rights.uses == {"pretrain"} and set(both.terms.made["from"]) == {"ours", "theirs"}

    (tmp_path / "theirs/meta/kiban.json").unlink()
    with pytest.raises(KibanError, match="theirs: carries no terms .*say them with --partner"):
        convert([tmp_path / "ours", tmp_path / "theirs"], tmp_path / "no", V3, None, QUIET)
    datasets.write(tmp_path / "videos", videos=True)
    with pytest.raises(KibanError, match="'observation.images.front' is not as in"):
        convert([tmp_path / "ours", tmp_path / "videos"], tmp_path / "no", V3, narrow, QUIET)
    info = json.loads((tmp_path / "theirs/meta/info.json").read_text())
    (tmp_path / "theirs/meta/info.json").write_text(json.dumps(info | {"fps": 30}))
    with pytest.raises(KibanError, match="theirs: 30 fps, where .*ours has 20; two fps in one dataset"):
        convert([tmp_path / "ours", tmp_path / "theirs"], tmp_path / "no", V3, narrow, QUIET)


def test_terms_are_asked_before_a_dataset_is_used(tmp_path: Path) -> None:
    datasets.write(tmp_path / "set")
    require(tmp_path / "set", "pretrain")
    Terms(rights=Rights(uses=frozenset({"evaluate"}))).write(tmp_path / "set")
    with pytest.raises(KibanError, match="do not grant 'pretrain'; they grant evaluate"):
        require(tmp_path / "set", "pretrain")
    long_ago = datetime.date(2020, 1, 1)
    Terms(rights=Rights(expires=long_ago)).write(tmp_path / "set")
    with pytest.raises(KibanError, match="do not grant 'pretrain'.* until 2020-01-01"):
        require(tmp_path / "set", "pretrain")
    error = error_of("robot", "train", tmp_path / "set", "--language", tmp_path, "--out", tmp_path / "out")
    assert "do not grant 'pretrain'" in error
    with pytest.raises(KibanError, match="carries terms of its own"):
        convert([tmp_path / "set"], tmp_path / "no", V3, Terms(), QUIET)
    (tmp_path / "set/meta/kiban.json").unlink()
    require(tmp_path / "set", "pretrain")


def test_an_odd_camera_is_refused_as_a_video() -> None:
    features = {FRONT: datasets.video(31, 32, 20)}
    with pytest.raises(KibanError, match="31x32: a video needs even sides"):
        encode(features, {FRONT: np.zeros((2, 31, 32, 3), np.uint8)}, "赤い箱を押して")


def test_what_lerobot_encodes_is_cut_and_joined_too(tmp_path: Path) -> None:
    """AV1 with two frames to a key frame, as lerobot's recorder has it by default."""
    writer = WRITERS[V3](tmp_path / "set", {FRONT: datasets.video(64, 64, 20)}, 20, "test-arm")
    for length in (6, 9):
        frames = np.repeat(datasets.frames(length, length)[WRIST], 2, axis=1).repeat(2, axis=2)
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mp4") as container:
            stream = container.add_stream("libsvtav1", rate=20, options={"g": "2", "crf": "30", "preset": "12"})
            stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode())
        table = pa.table({"task": ["赤い箱を押して"] * length})
        writer.add(Episode(table, {FRONT: buffer.getvalue()}, {FRONT: pixel_levels(frames)}))
    writer.finish()
    convert([tmp_path / "set"], tmp_path / "cut", V21, None, QUIET)
    convert([tmp_path / "cut"], tmp_path / "again", V3, None, QUIET)
    first, cut, again = (Dataset(tmp_path / name) for name in ("set", "cut", "again"))
    shown = first.frames(FRONT)
    assert len(shown) == 15 and np.array_equal(shown, cut.frames(FRONT)) and np.array_equal(shown, again.frames(FRONT))
    assert np.array_equal(first.episode(1, [FRONT])[FRONT], shown[6:])
    name = f"videos/{FRONT}/chunk-000/file-000.mp4"
    assert packets(tmp_path / "set" / name) == packets(tmp_path / "again" / name)
    with pytest.raises(KibanError, match="encoded otherwise than the episodes before it"):
        joined = video.Joined(tmp_path / "mixed.mp4")
        joined.append(buffer.getvalue(), "one")
        joined.append(video.encode(frames, 20), "two")
