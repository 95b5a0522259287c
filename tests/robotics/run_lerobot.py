"""Loads a dataset with lerobot's own code, in lerobot's environment: `python run_lerobot.py FOLDER OUT`.

Two things are not lerobot's. torchvision, which cannot be had for the PyTorch that is here, is replaced by as much as
lerobot's dataset code touches of it: its transforms are not used, and its VideoReader (which torchvision itself has
given up) reads through PyAV, as it did. And nothing is asked of the Hugging Face hub.
"""

import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
os.environ["HF_HOME"] = os.environ["HF_LEROBOT_HOME"] = sys.argv[2] + ".home"

import av
import datasets  # noqa: F401  (before the stand-ins: it looks for torchvision, and does without)
import numpy as np
import torch


class VideoReader:
    """torchvision.io.VideoReader with its `pyav` backend."""

    def __init__(self, path: str, stream: str) -> None:
        self.container = av.open(path)

    def seek(self, seconds: float, keyframes_only: bool) -> "VideoReader":
        stream = self.container.streams.video[0]
        self.container.seek(int(seconds / stream.time_base), stream=stream)
        return self

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for frame in self.container.decode(video=0):
            pixels = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
            yield {"data": pixels, "pts": float(frame.pts * frame.time_base)}


class Unused(types.ModuleType):
    """A module with whatever is imported from it."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def to_tensor(picture: Any) -> torch.Tensor:
    """torchvision.transforms.ToTensor of a PIL image."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).to(torch.float32) / 255


torchvision = Unused("torchvision")
torchvision.set_video_backend = lambda name: None
torchvision.io = types.SimpleNamespace(VideoReader=VideoReader)
torchvision.transforms = Unused("torchvision.transforms")
torchvision.transforms.ToTensor = lambda: to_tensor
sys.modules["torchvision"] = torchvision
for name in ("torchvision.transforms", "torchvision.transforms.v2", "torchvision.transforms.v2.functional"):
    sys.modules[name] = torchvision.transforms if name.endswith("transforms") else Unused(name)

from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: E402


def main(folder: Path, out: Path) -> None:
    """Every frame's values by name, the sentences, the fps, and two frames of history of a few, into `out` (npz)."""
    dataset = LeRobotDataset("someone/something", root=folder, video_backend="pyav")
    found: dict[str, Any] = {"fps": dataset.fps, "episodes": dataset.num_episodes, "robot": dataset.meta.robot_type}
    items = [dataset[index] for index in range(len(dataset))]
    for name in items[0]:
        found[f"frame.{name}"] = np.array([np.asarray(item[name]) for item in items])
    for name, stats in dataset.meta.stats.items():
        found[f"mean.{name}"] = np.asarray(stats["mean"])
    cameras = list(dataset.meta.camera_keys)
    history = {name: [-1 / dataset.fps, 0.0] for name in (*cameras, "observation.state")}
    later = LeRobotDataset("someone/something", root=folder, delta_timestamps=history, video_backend="pyav")
    for index in (0, len(later) - 1):
        for name in history:
            found[f"history.{index}.{name}"] = np.asarray(later[index][name])
            found[f"history.{index}.{name}_is_pad"] = np.asarray(later[index][f"{name}_is_pad"])
    only = LeRobotDataset("someone/something", root=folder, episodes=[1], video_backend="pyav")
    found["second"] = np.asarray(only[0]["observation.state"])
    loader = torch.utils.data.DataLoader(dataset, batch_size=4)
    found["batch"] = np.asarray(next(iter(loader))["action"])
    np.savez(out, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
