"""A trained policy at work: loaded whole or refused, asked for actions, a chunk at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors.torch import load_file, save
from torch import Tensor

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_atomic, write_json
from kiban.robotics.act import Act
from kiban.robotics.action_expert import Prefix
from kiban.robotics.diffusion import DiffusionPolicy
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.language import Reader
from kiban.robotics.normaliser import Normaliser, Normalisers, shrunk
from kiban.robotics.policy import Policy
from kiban.robotics.policy_config import PolicyConfig, RobotShape

WEIGHTS, DESCRIPTION = "policy.safetensors", "policy.json"
LANGUAGE = "language"  # the language model, where it learned on with the policy, or was put beside it

Network = Policy | Act | DiffusionPolicy
NETWORKS: dict[str, type[Network]] = {"kiban": Policy, "act": Act, "diffusion": DiffusionPolicy}


class PolicyDescription(BaseModel):
    """policy.json: what a policy is for and how to run it. `execute` of a chunk's actions are carried out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: tuple[str, ...]  # none where they are not known
    language: str  # the address of the language model whose hidden states it was trained on
    language_trained: bool = False
    network: PolicyConfig
    normalisers: dict[str, Normalisers]  # of each robot
    euler_steps: int = Field(default=5, ge=1)
    distilled: bool = False
    execute: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Every robot has a normaliser of its sizes: none is run without, or with another's."""
        for robot in self.network.robots:
            if robot.name not in self.normalisers:
                raise ValueError(f"robot '{robot.name}' has no normaliser")
            normalisers = self.normalisers[robot.name]
            sizes = (len(normalisers.state.names), len(normalisers.action.names), set(normalisers.images))
            if sizes != (robot.state, robot.action, {camera.name for camera in robot.cameras}):
                raise ValueError(f"the normaliser of robot '{robot.name}' is not for its state, action and cameras")
        return self

    @property
    def embodiments(self) -> tuple[str, ...]:
        return tuple(robot.name for robot in self.network.robots)

    @property
    def embodiment(self) -> str:
        """The first robot that it serves."""
        return self.embodiments[0]


def build(network: PolicyConfig) -> Network:
    """An untrained network of its kind."""
    return NETWORKS[network.kind](network)


def save_policy(policy: Network, description: PolicyDescription, folder: Path) -> None:
    write_atomic(folder / WEIGHTS, save({name: tensor.contiguous() for name, tensor in policy.state_dict().items()}))
    write_json(folder / DESCRIPTION, description.model_dump(mode="json"))


def load_policy(folder: Path) -> tuple[Network, PolicyDescription]:
    """Raises KibanError if files are missing, or weights are not those that policy.json describes."""
    content = read_json(folder / DESCRIPTION)
    try:
        description = PolicyDescription.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        raise KibanError(f"{folder / DESCRIPTION}: {where}: {first['msg']}; was it made by another version?") from None
    if not (folder / WEIGHTS).is_file():
        raise KibanError(f"{folder / WEIGHTS}: missing; copy the whole folder again")
    policy = build(description.network)
    try:
        policy.load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError as error:
        first_line = str(error).splitlines()[-1].strip()
        raise KibanError(f"{folder / WEIGHTS}: does not fit {DESCRIPTION}: {first_line}") from None
    return policy.eval(), description


def reader_of(folder: Path, language: Path) -> Reader:
    """The language model that the policy in `folder` reads with: its own where it has one, or else `language`."""
    return Reader.load(folder / LANGUAGE if (folder / LANGUAGE).is_dir() else language)


@dataclass
class Agent:
    """Carries out one instruction. Its noise comes from the episode's seed, so that an episode can be repeated.

    Raises:
        KibanError: if the embodiment is none of those that the policy was trained on.
    """

    policy: Network
    description: PolicyDescription
    reader: Reader
    embodiment: Embodiment

    def __post_init__(self) -> None:
        name, known = self.embodiment.name, self.description.embodiments
        if name not in known:
            raise KibanError(f"robot '{name}': the policy was trained on {', '.join(known)}; use one of those")
        self._normalisers = self.description.normalisers[name]
        self._robot = self.description.network.robot(name)
        self._normalisers.check(self.embodiment)
        _check(self._robot, self.embodiment)
        if self.reader.num_features != self.description.network.language:
            raise KibanError(
                f"language model: gives {self.reader.num_features} features a token, the policy was trained on "
                f"{self.description.network.language}; use the export that it was trained with"
            )

    def reset(self, instruction: str, seed: int) -> None:
        text = self.reader.read(instruction)
        self._text_BTF, self._present_BT = text[None], torch.ones(1, len(text), dtype=torch.bool)
        self._generator = torch.Generator().manual_seed(seed)
        self._queue: list[NDArray[np.float64]] = []

    def act(self, observation: dict[str, Any]) -> NDArray[np.float64]:
        """The next action, in the embodiment's units. The safety filter is still to come."""
        if not self._queue:
            self._queue = list(self.chunk(observation)[: self.description.execute])
        return self._queue.pop(0)

    @torch.inference_mode()
    def chunk(self, observation: dict[str, Any]) -> NDArray[np.float64]:
        """All actions [K, A] that the policy sees ahead, in the embodiment's units."""
        prefix, noise = self._condition(observation)
        actions = self.policy.sample(prefix, noise, self.description.euler_steps)
        return self._normalisers.action.undo(actions)[0].double().numpy()

    @torch.no_grad()
    def denoiser(self, observation: dict[str, Any]) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
        """For whoever samples in another way: (x_t [1, K, A], t [1]) -> the normalised actions that x_t came from, with
        the observation given; and noise [1, K, A] to begin with. Gradients by x_t can be had.

        Raises:
            KibanError: if the network is no flow.
        """
        policy = self.policy
        if not isinstance(policy, Policy):
            kind = self.description.network.kind
            raise KibanError(
                f"policy: real-time chunking guides a flow, this network is '{kind}'; use one of kind kiban"
            )
        prefix, noise = self._condition(observation)
        return (lambda noisy, time: policy.estimate(noisy, time, prefix)), noise

    @property
    def action_normaliser(self) -> Normaliser:
        return self._normalisers.action

    def _condition(self, observation: dict[str, Any]) -> tuple[Prefix, Tensor]:
        """The observation as the network's context, and noise [1, K, A]."""
        images = {
            camera.name: self._normalisers.images[camera.name].apply_to_pixels(
                torch.from_numpy(shrunk(observation[camera.name], camera.shrink))[None]
            )
            for camera in self._robot.cameras
        }
        state = self._normalisers.state.apply(torch.from_numpy(observation["state"])[None])
        prefix = self.policy.condition(self._robot.name, images, state, self._text_BTF, self._present_BT)
        return prefix, torch.randn(1, self.description.network.chunk, self._robot.action, generator=self._generator)


def _check(robot: RobotShape, embodiment: Embodiment) -> None:
    """Raises KibanError unless pictures and rate are those that the policy was trained on."""
    cameras = {camera.name: camera for camera in robot.cameras}
    for camera in embodiment.cameras:
        known = cameras[camera.name]
        if (camera.width, camera.height) != (known.width, known.height):
            raise KibanError(
                f"camera '{camera.name}': gives {camera.width}x{camera.height} pixels, the policy was trained on "
                f"{known.width}x{known.height}; use the embodiment it was trained for"
            )
    if embodiment.fps != robot.fps:
        raise KibanError(
            f"control period {embodiment.control_period} s: the policy was trained on {robot.fps} actions a second; "
            "use the embodiment it was trained for"
        )
