"""An embodiment as data: what a robot has and what it may do, read from `embodiments/<name>.toml`."""

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from kiban.artifacts.errors import KibanError

FOLDER = Path(__file__).parent / "embodiments"

Vector = tuple[float, float, float]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Joint(_Part):
    """A hinge. `position` is its range in rad, `velocity` in rad/s, `effort` in N m."""

    name: str
    position: tuple[float, float]
    velocity: float
    effort: float


class Gripper(_Part):
    """Two fingers. `opening` is the range between their pads in m, `velocity` of that opening in m/s, `effort` in N."""

    opening: tuple[float, float]
    velocity: float
    effort: float


class Box(_Part):
    """An axis-aligned box in the world, in m."""

    lower: Vector
    upper: Vector


class ActionSpace(_Part):
    """What one action says, with its bounds: the tool's displacement in a control period, and the gripper's opening."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]


class Camera(_Part):
    """A pinhole camera at `position` looking at `target`, both in the frame of `mount`; `field_of_view` is vertical."""

    name: str
    mount: Literal["world", "hand"]
    width: int
    height: int
    field_of_view: float
    position: Vector
    target: Vector


class Embodiment(_Part):
    """A robot as its drivers, its simulator, its safety filter and its policy need to know it."""

    name: str
    control_period: float
    joints: tuple[Joint, ...]
    gripper: Gripper
    workspace: Box
    action: ActionSpace
    cameras: tuple[Camera, ...]

    @property
    def state_names(self) -> tuple[str, ...]:
        """Proprioception, in order: joint positions, gripper opening, tool position by forward kinematics."""
        return (*(joint.name for joint in self.joints), "gripper.opening", "tool.x", "tool.y", "tool.z")

    @property
    def fps(self) -> int:
        return round(1 / self.control_period)


def available() -> list[str]:
    return sorted(path.stem.replace("_", "-") for path in FOLDER.glob("*.toml"))


def file_of(name: str) -> Path:
    """The file that describes the embodiment `name`.

    Raises:
        KibanError: if there is none.
    """
    if name not in available():
        raise KibanError(f"embodiment '{name}': there is no such robot; use one of {', '.join(available())}")
    return FOLDER / f"{name.replace('-', '_')}.toml"


def load(name: str) -> Embodiment:
    """Raises KibanError if there is no such embodiment, or its file is wrong."""
    path = file_of(name)
    try:
        return Embodiment.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise KibanError(f"{path}: {where}: {first['msg']}") from None
