"""An embodiment as data: what a robot has and what it may do, read from `embodiments/<name>.toml` or a file of yours.

Lengths in m, angles in rad, times in s. A robot has one or several arms; an arm is a chain of hinges with a tool at its
end, or (a simulator's mocap body) a hand without joints that is put where the action says. docs/robot-safety.md
describes a file of one's own.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kiban.artifacts.errors import KibanError

FOLDER = Path(__file__).parent / "embodiments"

Vector = tuple[float, float, float]
Range = tuple[float, float]
Positive = Field(gt=0, allow_inf_nan=False)

BASE = "base"  # the link that a capsule or a shape is on when it does not move


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _ordered(bounds: tuple[Any, Any]) -> tuple[Any, Any]:
    low, high = (tuple(b) if isinstance(b, tuple) else (b,) for b in bounds)
    if not all(a < b for a, b in zip(low, high, strict=True)):
        raise ValueError(f"the lower bound {bounds[0]} is not below the upper bound {bounds[1]}")
    return bounds


class Joint(_Part):
    """A hinge, and the link that it carries, which goes by its name.

    With all joints at zero every link's frame is parallel to the base's; `origin` is the hinge in the frame of the link
    before it, `axis` a unit vector. `position` is its range in rad, `velocity` in rad/s, `acceleration` in rad/s^2,
    `effort` in N m.
    """

    name: str
    origin: Vector
    axis: Vector
    position: Range
    velocity: float = Positive
    acceleration: float = Positive
    effort: float = Positive

    @field_validator("position")
    @classmethod
    def _is_range(cls, position: Range) -> Range:
        return _ordered(position)

    @field_validator("axis")
    @classmethod
    def _is_unit(cls, axis: Vector) -> Vector:
        if abs(sum(x * x for x in axis) - 1) > 1e-6:
            raise ValueError(f"{axis} is not of length 1")
        return axis


class Gripper(_Part):
    """Two fingers that close along the hand's y axis.

    `opening` is the range between their pads in m, `velocity` of that opening in m/s, `acceleration` in m/s^2, `effort`
    in N at each finger. An action says the opening to reach; or with `control = "effort"` how hard to close, from
    -effort to effort: then the opening only shows in proprioception, and has no velocity and acceleration to command.
    """

    control: Literal["opening", "effort"] = "opening"
    opening: Range
    velocity: float | None = Field(default=None, gt=0)
    acceleration: float | None = Field(default=None, gt=0)
    effort: float = Positive

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in ("velocity", "acceleration"):
            if (getattr(self, name) is None) == (self.control == "opening"):
                raise ValueError(f"gripper: {name} belongs to control = 'opening', and is needed there")
        return self

    @field_validator("opening")
    @classmethod
    def _is_range(cls, opening: Range) -> Range:
        return _ordered(opening)


class Box(_Part):
    """An axis-aligned box in the world, in m."""

    lower: Vector
    upper: Vector

    @model_validator(mode="after")
    def _is_box(self) -> Self:
        _ordered((self.lower, self.upper))
        return self


class Capsule(_Part):
    """What collisions are judged by: all points within `radius` of the segment from `start` to `end`, on a link.

    One that `may_touch` belongs to the fingers: it keeps clear of the robot itself, but not of keep-out volumes, which
    the workspace of the tool keeps it from.
    """

    link: str
    start: Vector
    end: Vector
    radius: float = Positive
    may_touch: bool = False


class Shape(_Part):
    """What the simulator draws and weighs, on a link; sizes as MJCF has them (half extents; radius and half length).

    A capsule is given by its ends. An arm without shapes is drawn as its capsules.
    """

    link: str
    kind: Literal["box", "cylinder", "capsule"]
    size: tuple[float, ...]
    position: Vector = (0.0, 0.0, 0.0)
    ends: tuple[Vector, Vector] | None = None
    mass: float = Field(default=0.5, gt=0)
    colour: Vector = (0.78, 0.78, 0.80)


class Hand(_Part):
    """A hand without joints (mocap): how fast it may be moved along each axis, in m/s and m/s^2."""

    velocity: float = Positive
    acceleration: float = Positive


class Arm(_Part):
    """A chain of joints from `base` (world, m), turned by `yaw` about the vertical, to the tool, or a `hand` alone.

    `tool` is the point between the fingertips in the frame of the last link, whose z axis runs along the fingers.
    `posture` is one from which the workspace is reached; inverse kinematics starts there. The tool may move in
    `workspace` alone.
    """

    name: str
    base: Vector = (0.0, 0.0, 0.0)
    yaw: float = 0.0
    joints: tuple[Joint, ...] = ()
    hand: Hand | None = None
    posture: tuple[float, ...] = ()
    tool: Vector = (0.0, 0.0, 0.0)
    gripper: Gripper
    workspace: Box
    capsules: tuple[Capsule, ...] = ()
    shapes: tuple[Shape, ...] = ()

    @property
    def links(self) -> tuple[str, ...]:
        return (BASE, *(joint.name for joint in self.joints))

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if bool(self.joints) == (self.hand is not None):
            raise ValueError(f"arm '{self.name}' needs joints or a hand, and not both")
        if len(set(self.links)) < len(self.links):
            raise ValueError(f"arm '{self.name}': two joints have one name, or one is called '{BASE}'")
        if len(self.posture) != len(self.joints):
            raise ValueError(
                f"arm '{self.name}': posture has {len(self.posture)} numbers for {len(self.joints)} joints"
            )
        for joint, angle in zip(self.joints, self.posture, strict=True):
            if not joint.position[0] <= angle <= joint.position[1]:
                raise ValueError(f"arm '{self.name}': posture puts {joint.name} at {angle}, outside {joint.position}")
        parts: tuple[Capsule | Shape, ...] = (*self.capsules, *self.shapes)
        for part in parts:
            if part.link not in self.links:
                raise ValueError(f"arm '{self.name}': no link '{part.link}'; it has {', '.join(self.links)}")
        return self


class KeepOut(_Part):
    """A box in the world, in m, that no capsule of the robot may enter (but see `Capsule.may_touch`)."""

    name: str
    lower: Vector
    upper: Vector

    @model_validator(mode="after")
    def _is_box(self) -> Self:
        _ordered((self.lower, self.upper))
        return self


class ActionSpace(_Part):
    """What one action says, arm by arm: displacements in one control period, then the gripper's opening or effort.

    `tool`: how far each tool moves along x, y, z, held upright. `joint`: how far each joint turns. `mocap`: how far a
    hand without joints moves. Bounds are in the action's own numbers; times `scale` they are in `units`.
    """

    kind: Literal["tool", "joint", "mocap"]
    names: tuple[str, ...]
    units: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    scale: tuple[float, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _scaled(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Without `scale` the numbers are in `units` already."""
        return {"scale": (1.0,) * len(values.get("names", ())), **values}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        lengths = {name: len(getattr(self, name)) for name in ("names", "units", "lower", "upper", "scale")}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"these differ in length: {lengths}")
        _ordered((self.lower, self.upper))
        return self


class Camera(_Part):
    """A pinhole camera at `position` looking at `target`, both in the frame of `mount`; `field_of_view` is vertical.

    `mount` is `world`, or an arm's hand: `hand`, or `left.hand` where there are several arms.
    """

    name: str
    mount: str
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    field_of_view: float = Field(gt=0, lt=180)
    position: Vector
    target: Vector


class Embodiment(_Part):
    """A robot as its drivers, its simulator, its safety filter and its policy need to know it.

    A command older than `stale_after` brings it to a stop.
    """

    name: str
    control_period: float = Positive
    stale_after: float = Positive
    action: ActionSpace
    arms: tuple[Arm, ...] = Field(min_length=1)
    keep_out: tuple[KeepOut, ...] = ()
    cameras: tuple[Camera, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        arms, cameras, volumes = ([part.name for part in parts] for parts in (self.arms, self.cameras, self.keep_out))
        for what, names in {"arms": arms, "cameras": cameras, "keep_out": volumes}.items():
            if len(set(names)) < len(names):
                raise ValueError(f"two of the {what} have one name")
        hands = {f"{self.prefix(arm)}hand" for arm in self.arms}
        for camera in self.cameras:
            if camera.mount not in {"world", *hands}:
                raise ValueError(
                    f"camera '{camera.name}': no mount '{camera.mount}'; use world or {', '.join(sorted(hands))}"
                )
        for arm in self.arms:
            if (self.action.kind == "mocap") != (arm.hand is not None):
                raise ValueError(f"arm '{arm.name}': an action of kind '{self.action.kind}' does not move it")
        needed = sum(map(self.action_size, self.arms))
        if len(self.action.names) != needed:
            raise ValueError(f"action: {len(self.action.names)} numbers, the arms need {needed}")
        return self

    def prefix(self, arm: Arm) -> str:
        """What its parts' names begin with: nothing if it is the only arm."""
        return f"{arm.name}." if len(self.arms) > 1 else ""

    def action_size(self, arm: Arm) -> int:
        """How many numbers of an action are this arm's, the gripper's included."""
        return (len(arm.joints) if self.action.kind == "joint" else 3) + 1

    @property
    def state_names(self) -> tuple[str, ...]:
        """Proprioception, arm by arm: joint positions, gripper opening, tool position by forward kinematics.

        Of a hand without joints: its position, then the gripper's opening.
        """
        names: list[str] = []
        for arm in self.arms:
            tool = [f"{'tool' if arm.joints else 'hand'}.{axis}" for axis in "xyz"]
            of_arm = [*(joint.name for joint in arm.joints), "gripper.opening"]
            names += [self.prefix(arm) + name for name in (of_arm + tool if arm.joints else tool + of_arm)]
        return tuple(names)

    @property
    def postures(self) -> tuple[list[float], list[float]]:
        """Where it may start: joints in their postures (a hand amid its workspace), and grippers, open."""
        joints: list[float] = []
        for arm in self.arms:
            middle = zip(arm.workspace.lower, arm.workspace.upper, strict=True)
            joints += arm.posture if arm.joints else [(low + high) / 2 for low, high in middle]
        grippers = [0.0 if arm.gripper.control == "effort" else arm.gripper.opening[1] for arm in self.arms]
        return joints, grippers

    @property
    def joints(self) -> tuple[Joint, ...]:
        """Those of all arms, in order."""
        return tuple(joint for arm in self.arms for joint in arm.joints)

    @property
    def gripper(self) -> Gripper:
        """The first arm's."""
        return self.arms[0].gripper

    @property
    def workspace(self) -> Box:
        """The first arm's."""
        return self.arms[0].workspace

    @property
    def fps(self) -> int:
        return round(1 / self.control_period)


def available() -> list[str]:
    return sorted(path.stem.replace("_", "-") for path in FOLDER.glob("*.toml"))


def file_of(name: str) -> Path:
    """The file that describes the embodiment `name`, which may be the path of a .toml itself.

    Raises:
        KibanError: if there is none.
    """
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise KibanError(f"embodiment '{name}': there is no such file; write it as docs/robot-safety.md shows")
        return Path(name)
    if name not in available():
        raise KibanError(
            f"embodiment '{name}': there is no such robot; use one of {', '.join(available())}, or the path of a .toml"
        )
    return FOLDER / f"{name.replace('-', '_')}.toml"


def load(name: str) -> Embodiment:
    """Raises KibanError if there is no such embodiment, or its file is wrong."""
    path = file_of(name)
    try:
        return Embodiment.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KibanError(f"{path}: is no TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the robot"
        raise KibanError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
