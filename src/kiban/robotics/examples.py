"""What a policy is trained on: frames of one or several LeRobot datasets, of one or several robots.

Pictures lie in files of bytes that are mapped, not read (`frames_of`), so a dataset may be larger than memory; states,
actions and sentences are kept. Some episodes can be held out: they are never trained on, only measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kiban.artifacts.errors import KibanError
from kiban.robotics.dataset import Dataset
from kiban.robotics.features import ACTION, IMAGES, STATE
from kiban.robotics.language import Reader
from kiban.robotics.normaliser import CHANNELS, Normaliser, Normalisers, shrunk
from kiban.robotics.policy_config import CameraShape, RobotShape, destination_of

PIXELS = 128  # a picture's longer side is shrunk to no more
COLOUR_FRAMES = 500  # whose pixels say what a camera's colours are like


@dataclass(frozen=True)
class Batch:
    """Normalised frames of one robot; `valid_BK` tells the actions that are within the episode."""

    robot: str
    images: dict[str, Tensor]
    state_BS: Tensor
    text_BTF: Tensor
    present_BT: Tensor
    actions_BKA: Tensor
    valid_BK: Tensor
    destination_BD: Tensor


@dataclass(frozen=True)
class Recorded:
    """One dataset as it lies before us. `pixels` by camera, uint8 [frames, height, width, 3], shrunk, mapped."""

    folder: Path
    robot: RobotShape
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    sentences: list[str]
    pixels: dict[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    task: NDArray[np.int64]
    episode: NDArray[np.int64]

    @classmethod
    def read(cls, folder: Path, work: Path, pixels: int = PIXELS) -> "Recorded":
        """The dataset in `folder`; its pictures go into files in `work`, unless they are there already.

        Raises:
            KibanError: if it lacks a state, actions or cameras, or holds NaN, or is not whole.
        """
        dataset = Dataset(folder)
        cameras = {
            name.removeprefix(IMAGES).removeprefix("observation."): feature
            for name, feature in dataset.features.items()
            if feature.is_picture
        }
        if not cameras:
            raise KibanError(f"{folder}: has no camera; a policy needs pictures ({IMAGES}NAME)")
        state, action = (_vectors(dataset, folder, name) for name in (STATE, ACTION))
        names = [_names(dataset, name) for name in (STATE, ACTION)]
        shapes = tuple(
            CameraShape(name=name, height=height, width=width, shrink=-(-max(height, width) // pixels))
            for name, (height, width, _) in ((name, f.picture_shape) for name, f in cameras.items())
        )
        robot = RobotShape(
            name=dataset.robot_type or "robot",
            fps=dataset.fps,
            cameras=shapes,
            state=state.shape[1],
            action=action.shape[1],
            destination=destination_of(names[0]),
        )
        work.mkdir(parents=True, exist_ok=True)
        features = {
            name: IMAGES + name if IMAGES + name in dataset.features else "observation." + name for name in cameras
        }
        mapped = {c.name: _mapped(dataset, features[c.name], c, work / f"{c.name}-{c.shrink}.uint8") for c in shapes}
        task, episode = (dataset.frames(name)[:, 0] for name in ("task_index", "episode_index"))
        return cls(folder, robot, names[0], names[1], dataset.tasks, mapped, state, action, task, episode)


def _names(dataset: Dataset, name: str) -> tuple[str, ...]:
    feature = dataset.features[name]
    if feature.names is not None and len(feature.names) == feature.shape[0]:
        return feature.names
    return tuple(f"{name.rsplit('.', 1)[-1]}.{index}" for index in range(feature.shape[0]))


def _vectors(dataset: Dataset, folder: Path, name: str) -> NDArray[np.float32]:
    if name not in dataset.features:
        raise KibanError(f"{folder}: has no '{name}'; it has {', '.join(dataset.features)}")
    if len(dataset.features[name].shape) != 1:
        raise KibanError(f"{folder}: '{name}' has shape {dataset.features[name].shape}; a policy needs a vector")
    values = dataset.frames(name).astype(np.float32)
    wrong = ~np.isfinite(values).all(axis=1)
    if wrong.any():
        raise KibanError(f"{folder}: '{name}' holds NaN or infinity in frame {wrong.argmax()}; drop that episode")
    return values


def _mapped(dataset: Dataset, feature: str, camera: CameraShape, path: Path) -> NDArray[np.uint8]:
    """The camera's shrunk frames in a file of nothing but bytes."""
    shape = (-1, camera.height // camera.shrink, camera.width // camera.shrink, 3)
    if not path.exists():
        temporary = path.with_suffix(".part")
        with temporary.open("wb") as file:
            for number in range(len(dataset.episodes)):
                shrunk(dataset.episode(number, [feature])[feature], camera.shrink).tofile(file)
        temporary.replace(path)
    return np.memmap(path, np.uint8, mode="r").reshape(shape)


def robots_of(recorded: Sequence[Recorded]) -> tuple[tuple[RobotShape, ...], dict[str, Normalisers]]:
    """The robots that were recorded, and a normaliser of each over all of its datasets.

    Raises:
        KibanError: if two datasets of one robot differ in what it has.
    """
    by_robot: dict[str, list[Recorded]] = {}
    for one in recorded:
        same = by_robot.setdefault(one.robot.name, [])
        if same and (one.robot, one.state_names, one.action_names) != (
            same[0].robot,
            same[0].state_names,
            same[0].action_names,
        ):
            raise KibanError(
                f"{one.folder}: '{one.robot.name}' has {_described(one)}; in {same[0].folder} it has "
                f"{_described(same[0])}; give one of them another robot_type in meta/info.json"
            )
        same.append(one)
    return tuple(same[0].robot for same in by_robot.values()), {
        name: _normalisers(same) for name, same in by_robot.items()
    }


def _described(one: Recorded) -> str:
    cameras = ", ".join(f"{c.name} {c.width}x{c.height}" for c in one.robot.cameras)
    return f"{one.robot.state} states, {one.robot.action} actions, {one.robot.fps} fps, {cameras}"


def _normalisers(recorded: list[Recorded]) -> Normalisers:
    images = {}
    for name in recorded[0].pixels:
        pixels = np.concatenate(
            [one.pixels[name][:: max(1, len(one.state) // COLOUR_FRAMES)].reshape(-1, 3) for one in recorded]
        )
        images[name] = Normaliser.of(CHANNELS, pixels / np.float32(255))
    return Normalisers(
        state=Normaliser.of(recorded[0].state_names, np.concatenate([one.state for one in recorded])),
        action=Normaliser.of(recorded[0].action_names, np.concatenate([one.action for one in recorded])),
        images=images,
    )


class Frames:
    """One dataset's frames, ready to train on: frame i with the `chunk` actions from i on within its episode."""

    def __init__(self, recorded: Recorded, normalisers: Normalisers, chunk: int, held_out: float, seed: int) -> None:
        self.robot, self.sentences = recorded.robot, recorded.sentences
        self._normalisers = normalisers
        self._pixels = recorded.pixels
        self._state = normalisers.state.apply(torch.from_numpy(recorded.state))
        self._action = normalisers.action.apply(torch.from_numpy(recorded.action))
        self._task, episode = torch.from_numpy(recorded.task), torch.from_numpy(recorded.episode)
        index = torch.arange(len(episode))[:, None] + torch.arange(chunk)
        self._following = index.clamp(max=len(episode) - 1)
        self._valid = (index < len(episode)) & (episode[self._following] == episode[:, None])
        last = torch.searchsorted(episode, episode, right=True) - 1
        self._destination = self._state[last][:, list(recorded.robot.destination)]
        episodes = int(episode[-1]) + 1
        order = torch.randperm(episodes, generator=torch.Generator().manual_seed(seed))
        kept_back = torch.zeros(episodes, dtype=torch.bool)
        kept_back[order[: round(held_out * episodes)]] = True
        self.train, self.held_out = torch.where(~kept_back[episode])[0], torch.where(kept_back[episode])[0]
        if not len(self.train):
            raise KibanError(f"{recorded.folder}: {episodes} episodes, all held out; record more, or hold out less")

    def batch(self, frames: Tensor, text: "Instructions") -> Batch:
        rows = frames.numpy()
        images = {
            name: self._normalisers.images[name].apply_to_pixels(torch.from_numpy(pixels[rows]))
            for name, pixels in self._pixels.items()
        }
        text_BTF, present_BT = text.of([self.sentences[task] for task in self._task[frames].tolist()])
        return Batch(
            self.robot.name,
            images,
            self._state[frames],
            text_BTF,
            present_BT,
            self._action[self._following[frames]],
            self._valid[frames],
            self._destination[frames],
        )


class Instructions:
    """The reading of every sentence there is: kept, or done anew with gradients where the language model learns."""

    def __init__(self, reader: Reader, sentences: list[str], learning: bool) -> None:
        self._reader, self._learning = reader, learning
        self._row = {sentence: row for row, sentence in enumerate(dict.fromkeys(sentences))}
        self._text, self._present = reader.read_all(list(self._row))  # refuses what cannot be read, before training

    def of(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Features [B, T, F] and presence [B, T] of `sentences`."""
        if self._learning:
            distinct = {sentence: row for row, sentence in enumerate(dict.fromkeys(sentences))}
            text, present = self._reader.study(list(distinct))
            rows = torch.tensor([distinct[sentence] for sentence in sentences])
            return text[rows], present[rows]
        rows = torch.tensor([self._row[sentence] for sentence in sentences])
        longest = int(self._present[rows].sum(dim=1).max())
        return self._text[rows, :longest], self._present[rows, :longest]


class Examples:
    """Frames of all datasets, drawn as one."""

    def __init__(self, frames: Sequence[Frames], instructions: Instructions) -> None:
        self._frames, self._instructions = frames, instructions
        self._ends = torch.tensor([len(one.train) for one in frames]).cumsum(0)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def batches(self, chosen: Tensor) -> list[Batch]:
        """The training frames `chosen`, of 0 to len - 1: a batch for each dataset that has some."""
        owner = torch.searchsorted(self._ends, chosen, right=True)
        batches = []
        for index, one in enumerate(self._frames):
            mine = chosen[owner == index] - (self._ends[index] - len(one.train))
            if len(mine):
                batches.append(one.batch(one.train[mine], self._instructions))
        return batches

    def held_out(self, most: int) -> list[Batch]:
        """Up to `most` frames of each dataset that are never trained on, evenly spaced; none where none are."""
        return [
            one.batch(one.held_out[:: -(-len(one.held_out) // most)], self._instructions)
            for one in self._frames
            if len(one.held_out)
        ]
