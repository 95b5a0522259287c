"""Normalisation, saved with the policy. What does not match by name is refused, never skipped."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from kiban.artifacts.errors import KibanError
from kiban.robotics.embodiment import Embodiment

CHANNELS = ("red", "green", "blue")
LEAST_DEVIATION = 1e-3  # a number that hardly ever changes is not blown up


def shrunk(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Means of blocks of `factor` by `factor` pixels of [..., height, width, 3]; what is left at the edges is cut."""
    if factor == 1:
        return pixels
    *rest, height, width, channels = pixels.shape
    height, width = height // factor, width // factor
    blocks = pixels[..., : height * factor, : width * factor, :].reshape(*rest, height, factor, width, factor, channels)
    return np.rint(blocks.mean(axis=(-4, -2), dtype=np.float32)).astype(np.uint8)


class Normaliser(BaseModel):
    """`(x - mean) / deviation` for a vector whose numbers have names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of(cls, names: tuple[str, ...], values: NDArray[Any]) -> "Normaliser":
        """That brings `values` [rows, names] to mean 0 and deviation 1."""
        values = values.astype(np.float64)
        mean, deviation = values.mean(axis=0), np.maximum(values.std(axis=0), LEAST_DEVIATION)
        return cls(names=names, mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))

    def check(self, names: tuple[str, ...], what: str) -> None:
        """Raises KibanError unless the numbers are these, in this order."""
        if names != self.names:
            raise KibanError(
                f"{what}: the policy was trained on ({', '.join(self.names)}), the robot has ({', '.join(names)}); "
                "use the embodiment it was trained for, or train on this one's demonstrations"
            )

    def apply(self, values: Tensor) -> Tensor:
        return (values - torch.tensor(self.mean)) / torch.tensor(self.deviation)

    def apply_to_pixels(self, pixels: Tensor) -> Tensor:
        """uint8 [B, height, width, channels] -> [B, channels, height, width]. Levels count from 0 to 1."""
        return self.apply(pixels / 255).permute(0, 3, 1, 2)

    def undo(self, values: Tensor) -> Tensor:
        return values * torch.tensor(self.deviation) + torch.tensor(self.mean)


class Normalisers(BaseModel):
    """All that a policy needs for one robot: of the state, of the actions, and of each camera's colours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Normaliser
    action: Normaliser
    images: dict[str, Normaliser]

    def check(self, embodiment: Embodiment) -> None:
        """Raises KibanError unless the robot's state, action and cameras are those that these were made from."""
        self.state.check(embodiment.state_names, "state")
        self.action.check(embodiment.action.names, "action")
        cameras = [camera.name for camera in embodiment.cameras]
        if set(cameras) != set(self.images):
            raise KibanError(
                f"cameras: the policy was trained on ({', '.join(self.images)}), the robot has ({', '.join(cameras)}); "
                "use the embodiment it was trained for, or train on this one's demonstrations"
            )
