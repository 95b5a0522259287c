"""A trained policy at work: loaded whole or refused, asked for actions, a chunk at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save
from torch import Tensor

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_atomic, write_json
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.language import Reader
from kiban.robotics.normaliser import Normaliser, Normalisers
from kiban.robotics.policy import Policy, PolicyConfig

WEIGHTS, DESCRIPTION = "policy.safetensors", "policy.json"


class PolicyDescription(BaseModel):
    """policy.json: what a policy is for and how to run it. `execute` of a chunk's actions are carried out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embodiment: str
    tasks: tuple[str, ...]
    language: str  # the address of the language model whose hidden states it was trained on
    network: PolicyConfig
    normalisers: Normalisers
    flow: str = "t = 0 noise, t = 1 action; the network estimates the action"
    euler_steps: int = 5
    execute: int = 4


def save_policy(policy: Policy, description: PolicyDescription, folder: Path) -> None:
    write_atomic(folder / WEIGHTS, save({name: tensor.contiguous() for name, tensor in policy.state_dict().items()}))
    write_json(folder / DESCRIPTION, description.model_dump(mode="json"))


def load_policy(folder: Path) -> tuple[Policy, PolicyDescription]:
    """Raises KibanError if files are missing, or weights are not those that policy.json describes."""
    content = read_json(folder / DESCRIPTION)
    try:
        description = PolicyDescription.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise KibanError(f"{folder / DESCRIPTION}: {where}: {first['msg']}; was it made by another version?") from None
    if not (folder / WEIGHTS).is_file():
        raise KibanError(f"{folder / WEIGHTS}: missing; copy the whole folder again")
    policy = Policy(description.network)
    try:
        policy.load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError as error:
        first_line = str(error).splitlines()[-1].strip()
        raise KibanError(f"{folder / WEIGHTS}: does not fit {DESCRIPTION}: {first_line}") from None
    return policy.eval(), description


@dataclass
class Agent:
    """Carries out one instruction. Its noise comes from the episode's seed, so that an episode can be repeated.

    Raises:
        KibanError: if the embodiment is not the one that the policy was trained on.
    """

    policy: Policy
    description: PolicyDescription
    reader: Reader
    embodiment: Embodiment

    def __post_init__(self) -> None:
        self.description.normalisers.check(self.embodiment)
        for camera, known in zip(self.embodiment.cameras, self.description.network.cameras, strict=True):
            if (camera.width, camera.height) != (known.width, known.height):
                raise KibanError(
                    f"camera '{camera.name}': gives {camera.width}x{camera.height} pixels, the policy was trained on "
                    f"{known.width}x{known.height}; use the embodiment it was trained for"
                )
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
        tokens, noise = self._condition(observation)
        actions = self.policy.sample(tokens, noise, self.description.euler_steps)
        return self.action_normaliser.undo(actions)[0].double().numpy()

    @torch.no_grad()
    def denoiser(self, observation: dict[str, Any]) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
        """For whoever samples in another way: (x_t [1, K, A], t [1]) -> the normalised actions that x_t came from, with
        the observation given; and noise [1, K, A] to begin with. Gradients by x_t can be had."""
        tokens, noise = self._condition(observation)
        return (lambda noisy, time: self.policy.estimate(noisy, time, tokens)), noise

    @property
    def action_normaliser(self) -> Normaliser:
        return self.description.normalisers.action

    def _condition(self, observation: dict[str, Any]) -> tuple[Tensor, Tensor]:
        network, normalisers = self.description.network, self.description.normalisers
        images = {
            name: normaliser.apply_to_pixels(torch.from_numpy(observation[name])[None])
            for name, normaliser in normalisers.images.items()
        }
        state = normalisers.state.apply(torch.from_numpy(observation["state"])[None])
        tokens = self.policy.condition(images, state, self._text_BTF, self._present_BT)
        return tokens, torch.randn(1, network.chunk, network.action, generator=self._generator)
