"""A simulated robot behind the interface of a driver: it observes, and carries out one command a control period."""

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from kiban.robotics.camera import RayCamera
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.kinematics import Kinematics
from kiban.robotics.safety import Command
from kiban.robotics.scene import TIMESTEP, Thing, build, controls

Array = NDArray[np.float64]


class SimulatedRobot:
    """Any robot with joints, over the table with `things` on it; it begins in its postures with open grippers.

    Simulated time goes on by one control period with each command, as quickly as it can: the loop that sends the
    commands keeps the real time.
    """

    def __init__(self, embodiment: Embodiment, things: Sequence[Thing] = (), instruction: str = "") -> None:
        self.embodiment, self.instruction = embodiment, instruction
        self.model = build(embodiment, list(things))
        self.data = mujoco.MjData(self.model)
        self._cameras = [RayCamera(camera, self.model) for camera in embodiment.cameras]
        self._kinematics = [Kinematics(arm) for arm in embodiment.arms]
        placed = controls(embodiment, *map(np.array, embodiment.postures))
        self.data.qpos[: len(placed)] = self.data.ctrl[:] = placed
        mujoco.mj_step(self.model, self.data, round(0.2 / TIMESTEP))  # the things come to rest
        mujoco.mj_forward(self.model, self.data)

    def observe(self) -> dict[str, Any]:
        """Pictures by camera, `state`, `instruction`, and `efforts`, those of the joints in N m."""
        state: list[float] = []
        efforts: list[float] = []
        first = 0
        for arm, kinematics in zip(self.embodiment.arms, self._kinematics, strict=True):
            last = first + len(arm.joints)
            joints = self.data.qpos[first:last]
            state += [*joints, self.data.qpos[last : last + 2].sum(), *kinematics.tool(joints)]
            efforts += list(self.data.actuator_force[first:last])
            first = last + 2  # the fingers
        images = {camera.camera.name: camera.image(self.data) for camera in self._cameras}
        return {
            **images,
            "state": np.array(state, np.float32),
            "efforts": np.array(efforts),
            "instruction": self.instruction,
        }

    def send(self, command: Command) -> None:
        self.data.ctrl[:] = controls(self.embodiment, command.joints, command.grippers)
        mujoco.mj_step(self.model, self.data, round(self.embodiment.control_period / TIMESTEP))
        mujoco.mj_forward(self.model, self.data)

    def halt(self) -> None:
        """The motors hold where the robot is."""
        self.data.ctrl[:] = self.data.qpos[: self.model.nu]
