"""The tabletop as MJCF, made of primitive geoms alone: an arm, a table, and coloured objects. No mesh, no texture."""

from dataclasses import dataclass

import mujoco
import numpy as np

from kiban.robotics.embodiment import Embodiment

TIMESTEP = 0.005  # s; the control period must be a multiple of it

COLOURS = {
    "red": (0.80, 0.10, 0.10),
    "blue": (0.10, 0.22, 0.85),
    "green": (0.10, 0.62, 0.18),
    "yellow": (0.92, 0.80, 0.08),
}

# Half extents in m, as MJCF has them: x, y, z of a box, radius and half length of a cylinder.
SHAPES: dict[str, tuple[str, tuple[float, ...]]] = {
    "cube": ("box", (0.018, 0.018, 0.018)),
    "cylinder": ("cylinder", (0.017, 0.026)),
    "box": ("box", (0.015, 0.029, 0.014)),
}

# The arm's lengths in m: shoulder above the table, upper arm, forearm, wrist to wrist_roll, wrist_roll to tool.
SHOULDER, UPPER_ARM, FOREARM, WRIST, TOOL = 0.18, 0.32, 0.30, 0.06, 0.17


@dataclass(frozen=True)
class Thing:
    """An object on the table: its colour and shape (keys of COLOURS and SHAPES), centre (x, y) in m and yaw in rad."""

    colour: str
    shape: str
    x: float
    y: float
    yaw: float

    @property
    def half_height(self) -> float:
        return SHAPES[self.shape][1][-1]


def _joint(embodiment: Embodiment, index: int, axis: str) -> str:
    joint = embodiment.joints[index]
    low, high = joint.position
    return f'<joint name="{joint.name}" axis="{axis}" range="{low} {high}" damping="1" armature="0.1"/>'


def _thing(index: int, thing: Thing) -> str:
    kind, size = SHAPES[thing.shape]
    red, green, blue = COLOURS[thing.colour]
    quaternion = f"{np.cos(thing.yaw / 2)} 0 0 {np.sin(thing.yaw / 2)}"
    return f"""
    <body name="object{index}" pos="{thing.x} {thing.y} {thing.half_height}" quat="{quaternion}">
      <freejoint/>
      <geom name="object{index}" class="touching" type="{kind}" size="{" ".join(map(str, size))}"
            rgba="{red} {green} {blue} 1" mass="0.06" friction="0.8 0.01 0.001"/>
    </body>"""


def _finger(name: str, side: int, half_opening: float) -> str:
    # At joint position 0 the pads touch; each finger slides outwards by half the opening.
    return f"""
      <body name="{name}" pos="0 {side * 0.006} 0.08" gravcomp="1">
        <joint name="{name}" type="slide" axis="0 {side} 0" range="0 {half_opening}" damping="2" armature="0.02"/>
        <geom name="{name}" type="box" size="0.011 0.006 0.048" pos="0 0 0.044" class="touching" rgba=".2 .2 .22 1"/>
      </body>"""


def scene_xml(embodiment: Embodiment, things: list[Thing]) -> str:
    """MJCF of the scene. Bodies `object0`, `object1`, ... stand for `things`; the site `tool` lies between the tips."""
    half_opening = embodiment.gripper.opening[1] / 2
    motors = "".join(
        f'<position name="{j.name}" joint="{j.name}" kp="{20 * j.effort}" dampratio="1" ctrlrange="{j.position[0]} '
        f'{j.position[1]}" forcerange="{-j.effort} {j.effort}"/>'
        for j in embodiment.joints
    )
    fingers = "".join(
        f'<position name="{name}" joint="{name}" kp="400" kv="12" ctrlrange="0 {half_opening}" '
        f'forcerange="{-embodiment.gripper.effort} {embodiment.gripper.effort}"/>'
        for name in ("left_finger", "right_finger")
    )
    return f"""
<mujoco model="{embodiment.name}">
  <compiler angle="radian"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <default>
    <geom contype="0" conaffinity="0" rgba=".78 .78 .80 1" mass="0.5"/>
    <default class="touching">
      <geom contype="1" conaffinity="1" condim="4" friction="1.5 0.02 0.002" mass="0.1"/>
    </default>
  </default>
  <worldbody>
    <geom name="table" type="box" size="0.5 0.6 0.02" pos="0.35 0 -0.02" class="touching" friction="0.8 0.01 0.001"
          rgba=".55 .50 .44 1"/>
    <geom name="floor" type="plane" size="3 3 0.1" pos="0 0 -0.6" rgba=".35 .36 .38 1"/>
    <geom name="pedestal" type="cylinder" size="0.06 {SHOULDER / 3}" pos="0 0 {SHOULDER / 3}" rgba=".3 .3 .33 1"/>
    <body name="link1" pos="0 0 {2 * SHOULDER / 3}" gravcomp="1">
      {_joint(embodiment, 0, "0 0 1")}
      <geom type="cylinder" size="0.05 0.04" pos="0 0 0.03"/>
      <body name="link2" pos="0 0 {SHOULDER / 3}" gravcomp="1">
        {_joint(embodiment, 1, "0 1 0")}
        <geom type="capsule" size="0.032" fromto="0 0 0 0 0 {UPPER_ARM}"/>
        <body name="link3" pos="0 0 {UPPER_ARM}" gravcomp="1">
          {_joint(embodiment, 2, "0 1 0")}
          <geom type="capsule" size="0.027" fromto="0 0 0 0 0 {FOREARM - 0.03}"/>
          <body name="link4" pos="0 0 {FOREARM}" gravcomp="1">
            {_joint(embodiment, 3, "0 0 1")}
            <geom type="cylinder" size="0.026 0.02" pos="0 0 -0.01"/>
            <body name="link5" gravcomp="1">
              {_joint(embodiment, 4, "0 1 0")}
              <geom type="capsule" size="0.024" fromto="0 0 0 0 0 {WRIST}"/>
              <body name="hand" pos="0 0 {WRIST}" gravcomp="1">
                {_joint(embodiment, 5, "0 0 1")}
                <geom name="palm" type="box" size="0.02 0.05 0.015" pos="0 0 0.06" rgba=".3 .3 .33 1"/>
                <geom type="cylinder" size="0.022 0.025" pos="0 0 0.02" mass="0.2"/>
                <site name="tool" pos="0 0 {TOOL}" size="0.004"/>
                {_finger("left_finger", 1, half_opening)}
                {_finger("right_finger", -1, half_opening)}
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>
    {"".join(_thing(index, thing) for index, thing in enumerate(things))}
  </worldbody>
  <actuator>{motors}{fingers}</actuator>
</mujoco>"""


def build(embodiment: Embodiment, things: list[Thing]) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(scene_xml(embodiment, things))
