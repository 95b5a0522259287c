"""A policy's sizes, and the robots that it serves, as policy.json has them."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kiban.robotics.embodiment import Embodiment

PolicyKind = Literal["kiban", "act", "diffusion"]


class CameraShape(BaseModel):
    """A camera's pictures, as it gives them. The network sees the means of blocks of `shrink` by `shrink` pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    height: int = Field(ge=8)
    width: int = Field(ge=8)
    shrink: int = Field(default=1, ge=1)


def destination_of(state_names: tuple[str, ...]) -> tuple[int, ...]:
    """The numbers of a state that are a tool's or a hand's place; all of them where none says so."""
    last = [name.rsplit(".", 2)[-2:] for name in state_names]
    places = [i for i, parts in enumerate(last) if parts[0] in ("tool", "hand") and parts[-1] in ("x", "y", "z")]
    return tuple(places or range(len(state_names)))


class RobotShape(BaseModel):
    """What one of the robots has: `state` and `action` numbers, and `fps` frames and actions a second.

    `destination`: which numbers of the state say where its tools are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fps: int = Field(ge=1)
    cameras: tuple[CameraShape, ...] = Field(min_length=1)
    state: int = Field(ge=1)
    action: int = Field(ge=1)
    destination: tuple[int, ...]

    @classmethod
    def of(cls, embodiment: Embodiment) -> "RobotShape":
        return cls(
            name=embodiment.name,
            fps=embodiment.fps,
            cameras=tuple(CameraShape(name=c.name, height=c.height, width=c.width) for c in embodiment.cameras),
            state=len(embodiment.state_names),
            action=len(embodiment.action.names),
            destination=destination_of(embodiment.state_names),
        )


class PolicyConfig(BaseModel):
    """The network's sizes. Cameras of one name share a vision tower, whichever robot they are on.

    `vision_blocks`: convolutions of a tower; from the second on, they work at a quarter of the picture's sides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: PolicyKind = "kiban"
    robots: tuple[RobotShape, ...] = Field(min_length=1)
    language: int  # features of a token
    chunk: int = 8
    width: int = 96
    layers: int = 3
    attention_heads: int = 4
    channels: int = 32
    vision_blocks: int = 1
    named_heads: int = 8  # of each tower: look for what the sentence names
    free_heads: int = 8  # look for the same thing always
    sentence_tokens: int = 4

    @model_validator(mode="after")
    def _fits(self) -> Self:
        names = [robot.name for robot in self.robots]
        if len(set(names)) < len(names):
            raise ValueError(f"two robots have one name: {', '.join(names)}")
        if self.width % (2 * self.attention_heads):
            raise ValueError(f"width {self.width} is no multiple of twice the {self.attention_heads} attention heads")
        return self

    def robot(self, name: str) -> RobotShape:
        return next(robot for robot in self.robots if robot.name == name)
