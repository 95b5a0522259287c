"""lerobot's own dataset code reads what we write, to the last number.

It lives in environments of its own, which benchmarks/peers.py makes, without the packages that it pins: 0.4.4 for v3.0
and 0.3.3 for v2.1. Where they cannot be had, nothing was loaded, and the test says so.
"""

import os
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest

from benchmarks import peers
from kiban.robotics import lerobot_v3
from kiban.robotics.dataset import Dataset
from kiban.robotics.layout import V3, V21
from tests.robotics import small_datasets as datasets
from tests.robotics.small_datasets import FRONT, WRIST

RUN = Path(__file__).with_name("run_lerobot.py")


def lerobot(version: str) -> Path:
    peer = {V3: "lerobot", V21: "lerobot-v21"}[version]
    try:
        return peers.python_of(peer)
    except (subprocess.CalledProcessError, OSError) as error:
        said = f"lerobot cannot be installed here ({error}): NO DATASET WAS LOADED WITH IT"
        warnings.warn(said, stacklevel=1)
        pytest.skip(said)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "videos", "file_mb"),
    [(V3, False, 100), (V3, True, 100), (V3, True, 0), (V21, False, 100), (V21, True, 100)],
    ids=["v3.0 images", "v3.0 videos", "v3.0 videos, a file an episode", "v2.1 images", "v2.1 videos"],
)
def test_lerobot_reads_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, videos: bool, file_mb: int
) -> None:
    python = lerobot(layout)
    for name in ("FILE_MB", "VIDEO_MB"):
        monkeypatch.setattr(lerobot_v3, name, file_mb)
    datasets.write(tmp_path / "data", layout, videos)
    ours, out = Dataset(tmp_path / "data"), tmp_path / "read.npz"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, RUN, tmp_path / "data", out], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = np.load(out)
    assert (int(theirs["fps"]), int(theirs["episodes"]), str(theirs["robot"])) == (20, 3, "test-arm")
    sentences = [ours.tasks[index] for index in ours.frames("task_index")[:, 0]]
    assert theirs["frame.task"].tolist() == sentences
    for name, feature in ours.features.items():
        read, expected = theirs[f"frame.{name}"], ours.frames(name)
        if feature.is_picture:
            assert np.array_equal(np.rint(read * 255).astype(np.uint8), expected.transpose(0, 3, 1, 2)), name
        else:
            expected = expected.astype(read.dtype)  # lerobot makes float32 of what is float64
            assert np.array_equal(read.reshape(expected.shape), expected), name
        assert np.allclose(theirs[f"mean.{name}"].ravel(), np.ravel(ours.stats[name]["mean"])), name
    for name in (FRONT, WRIST, "observation.state"):
        assert theirs[f"history.0.{name}_is_pad"].tolist() == [True, False]
        assert theirs[f"history.15.{name}_is_pad"].tolist() == [False, False]
        assert np.array_equal(theirs[f"history.15.{name}"], theirs[f"frame.{name}"][[14, 15]])
    assert np.array_equal(theirs["second"], ours.episode(1)["observation.state"][0])
    assert np.array_equal(theirs["batch"], ours.frames("action")[:4])
