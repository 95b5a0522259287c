"""Small datasets with Japanese sentences, for the tests of the formats."""

from pathlib import Path

import numpy as np

from kiban.robotics.conversion import WRITERS
from kiban.robotics.dataset_terms import Terms
from kiban.robotics.features import Feature, encode, image, video
from kiban.robotics.layout import V3

TASKS = ["赤い箱を押して", "青い円柱を取ってください", "赤い箱を押して"]
LENGTHS = (5, 7, 4)
FPS = 20
FRONT, WRIST = "observation.images.front", "observation.images.wrist"


def features(videos: bool = False) -> dict[str, Feature]:
    """Two cameras, a vector with parts, a matrix, a flag."""
    return {
        "observation.state": Feature("float32", (4,), ("shoulder", "elbow", "tool.x", "tool.y")),
        "action": Feature("float32", (2,), ("tool.dx", "gripper.opening")),
        "observation.force": Feature("float64", (2, 3)),
        "next.done": Feature("bool", (1,)),
        FRONT: video(48, 64, FPS) if videos else image(48, 64),
        WRIST: video(32, 32, FPS) if videos else image(32, 32),
    }


def frames(length: int, seed: int) -> dict[str, np.ndarray]:
    """Smooth pictures, each frame another, as a camera would give."""
    rng = np.random.default_rng(seed)

    def pictures(height: int, width: int) -> np.ndarray:
        y, x = np.mgrid[:height, :width]
        phases = rng.uniform(0, 6, (length, 1, 1, 3)) + np.arange(length)[:, None, None, None] / 3
        return (127 + 90 * np.sin(phases + (x + 2 * y)[None, :, :, None] / 15)).astype(np.uint8)

    return {
        "observation.state": rng.normal(size=(length, 4)).astype(np.float32),
        "action": rng.normal(size=(length, 2)).astype(np.float32),
        "observation.force": rng.normal(size=(length, 2, 3)),
        "next.done": np.arange(length)[:, None] == length - 1,
        FRONT: pictures(48, 64),
        WRIST: pictures(32, 32),
    }


def write(folder: Path, layout: str = V3, videos: bool = False) -> list[dict[str, np.ndarray]]:
    """Three episodes of LENGTHS with TASKS; gives their frames."""
    episodes = [frames(length, seed) for seed, length in enumerate(LENGTHS)]
    terms = Terms(partners=("robots",), licences=("CC-BY-4.0",), made={"by": "expert"})
    writer = WRITERS[layout](folder, features(videos), FPS, "test-arm", terms=terms)
    for episode, task in zip(episodes, TASKS, strict=True):
        writer.add(encode(features(videos), episode, task))
    writer.finish()
    return episodes
