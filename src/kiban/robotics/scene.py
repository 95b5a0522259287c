"""The tabletop as MJCF, made of primitive geoms alone: arms, a table, and coloured objects. No mesh, no texture."""

from collections.abc import Iterable
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from kiban.artifacts.errors import KibanError
from kiban.robotics.embodiment import BASE, Arm, Embodiment, Shape

Array = NDArray[np.float64]

TIMESTEP = 0.005  # s; the control period must be a multiple of it

COLOURS = {
    "red": (0.80, 0.10, 0.10),
    "blue": (0.10, 0.22, 0.85),
    "green": (0.10, 0.62, 0.18),
    "yellow": (0.92, 0.80, 0.08),
}

# Of things that no instruction names.
DISTRACTOR_COLOURS = {"white": (0.92, 0.92, 0.90), "purple": (0.48, 0.20, 0.60), "black": (0.12, 0.12, 0.13)}

# Half extents in m, as MJCF has them: x, y, z of a box, radius and half length of a cylinder.
SHAPES: dict[str, tuple[str, tuple[float, ...]]] = {
    "cube": ("box", (0.018, 0.018, 0.018)),
    "cylinder": ("cylinder", (0.017, 0.026)),
    "box": ("box", (0.015, 0.029, 0.014)),
}

FINGER = 0.09  # m from a finger's root to the tool
BARE = '<inertial pos="0 0 0" mass="0.2" diaginertia="1e-4 1e-4 1e-4"/>'  # of a link on which nothing is drawn


@dataclass(frozen=True)
class Thing:
    """An object on the table: colour (of COLOURS or DISTRACTOR_COLOURS), shape, centre (x, y) in m, yaw in rad.

    `scale` is its size against SHAPES.
    """

    colour: str
    shape: str
    x: float
    y: float
    yaw: float
    scale: float = 1.0

    @property
    def half_height(self) -> float:
        return SHAPES[self.shape][1][-1] * self.scale


def _numbers(values: Iterable[float]) -> str:
    return " ".join(str(value) for value in values)


def _thing(index: int, thing: Thing) -> str:
    kind, size = SHAPES[thing.shape]
    red, green, blue = (COLOURS | DISTRACTOR_COLOURS)[thing.colour]
    quaternion = f"{np.cos(thing.yaw / 2)} 0 0 {np.sin(thing.yaw / 2)}"
    return f"""
    <body name="object{index}" pos="{thing.x} {thing.y} {thing.half_height}" quat="{quaternion}">
      <freejoint/>
      <geom name="object{index}" class="touching" type="{kind}" size="{_numbers(s * thing.scale for s in size)}"
            rgba="{red} {green} {blue} 1" mass="{0.06 * thing.scale**3}" friction="0.8 0.01 0.001"/>
    </body>"""


def _geoms(arm: Arm, link: str) -> str:
    """What is drawn on `link`: the arm's shapes, or else its capsules, the fingers' apart."""
    shapes = arm.shapes or [
        Shape(link=c.link, kind="capsule", size=(c.radius,), ends=(c.start, c.end))
        for c in arm.capsules
        if not c.may_touch
    ]
    return "".join(
        f'<geom type="{s.kind}" size="{_numbers(s.size)}" mass="{s.mass}" rgba="{_numbers(s.colour)} 1" '
        + (f'fromto="{_numbers((*s.ends[0], *s.ends[1]))}"/>' if s.ends else f'pos="{_numbers(s.position)}"/>')
        for s in shapes
        if s.link == link
    )


def _finger(name: str, side: int, arm: Arm) -> str:
    # At joint position 0 the pads touch; each finger slides outwards by half the opening.
    x, y, z = arm.tool
    return f"""
      <body name="{name}" pos="{x} {y + side * 0.006} {round(z - FINGER, 9)}" gravcomp="1">
        <joint name="{name}" type="slide" axis="0 {side} 0" range="0 {arm.gripper.opening[1] / 2}" damping="2"
               armature="0.02"/>
        <geom name="{name}" type="box" size="0.011 0.006 0.048" pos="0 0 0.044" class="touching" rgba=".2 .2 .22 1"/>
      </body>"""


def _arm(arm: Arm, prefix: str) -> str:
    """The chain as nested bodies; the last is the `hand`, with the site `tool` and the fingers."""
    inner = f"""
      <site name="{prefix}tool" pos="{_numbers(arm.tool)}" size="0.004"/>
      {_finger(prefix + "left_finger", 1, arm)}
      {_finger(prefix + "right_finger", -1, arm)}"""
    for index, joint in reversed(list(enumerate(arm.joints, start=1))):
        name = "hand" if index == len(arm.joints) else f"link{index}"
        low, high = joint.position
        inner = f"""
    <body name="{prefix}{name}" pos="{_numbers(joint.origin)}" gravcomp="1">
      <joint name="{prefix}{joint.name}" axis="{_numbers(joint.axis)}" range="{low} {high}" damping="1" armature="0.1"/>
      {_geoms(arm, joint.name) or BARE}{inner}
    </body>"""
    standing = _geoms(arm, BASE) + inner
    if arm.base == (0.0, 0.0, 0.0) and arm.yaw == 0.0:
        return standing
    turn = f"{np.cos(arm.yaw / 2)} 0 0 {np.sin(arm.yaw / 2)}"
    return f'<body name="{prefix}base" pos="{_numbers(arm.base)}" quat="{turn}">{standing}</body>'


def _motors(arm: Arm, prefix: str) -> str:
    """Position servos: of the joints, then of the two fingers."""
    return "".join(
        f'<position name="{prefix}{j.name}" joint="{prefix}{j.name}" kp="{20 * j.effort}" dampratio="1" '
        f'ctrlrange="{_numbers(j.position)}" forcerange="{-j.effort} {j.effort}"/>'
        for j in arm.joints
    ) + "".join(
        f'<position name="{prefix}{name}" joint="{prefix}{name}" kp="400" kv="12" '
        f'ctrlrange="0 {arm.gripper.opening[1] / 2}" forcerange="{-arm.gripper.effort} {arm.gripper.effort}"/>'
        for name in ("left_finger", "right_finger")
    )


def scene_xml(embodiment: Embodiment, things: list[Thing]) -> str:
    """MJCF of the scene. Bodies `object0`, `object1`, ... stand for `things`; the site `tool` lies between the tips.

    Where there are several arms their parts' names begin with the arm's: `left.tool`, `left.hand`.
    """
    arms = [(arm, embodiment.prefix(arm)) for arm in embodiment.arms]
    return f"""
<mujoco model="{embodiment.name}">
  <compiler angle="radian"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <default>
    <geom contype="0" conaffinity="0"/>
    <default class="touching">
      <geom contype="1" conaffinity="1" condim="4" friction="1.5 0.02 0.002" mass="0.1"/>
    </default>
  </default>
  <worldbody>
    <geom name="table" type="box" size="0.5 0.6 0.02" pos="0.35 0 -0.02" class="touching" friction="0.8 0.01 0.001"
          rgba=".55 .50 .44 1"/>
    <geom name="floor" type="plane" size="3 3 0.1" pos="0 0 -0.6" rgba=".35 .36 .38 1"/>
    {"".join(_arm(arm, prefix) for arm, prefix in arms)}
    {"".join(_thing(index, thing) for index, thing in enumerate(things))}
  </worldbody>
  <actuator>{"".join(_motors(arm, prefix) for arm, prefix in arms)}</actuator>
</mujoco>"""


def build(embodiment: Embodiment, things: list[Thing]) -> mujoco.MjModel:
    """Raises KibanError for a robot that this simulator cannot move: a hand without joints."""
    if embodiment.action.kind == "mocap":
        raise KibanError(f"embodiment '{embodiment.name}': has no joints to simulate; it lives in its own simulator")
    return mujoco.MjModel.from_xml_string(scene_xml(embodiment, things))


def controls(embodiment: Embodiment, joints: Array, openings: Array) -> Array:
    """`joints` of all arms (rad) and `openings` of their grippers (m) in the scene's order: each arm with two fingers.

    So lie the motors in `data.ctrl`, and the robot at the head of `data.qpos`.
    """
    values: list[float] = []
    first = 0
    for arm, opening in zip(embodiment.arms, openings, strict=True):
        values += [*joints[first : first + len(arm.joints)], opening / 2, opening / 2]
        first += len(arm.joints)
    return np.array(values)
