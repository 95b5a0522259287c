"""Forward and inverse kinematics of the tool, on a copy of the arm without its surroundings."""

import mujoco
import numpy as np
from numpy.typing import NDArray

from kiban.robotics.embodiment import Embodiment
from kiban.robotics.scene import build

Array = NDArray[np.float64]

DAMPING = 0.02  # of the least squares: bounds the joints' step near a singularity
ITERATIONS = 12
TOLERANCE = 1e-4  # m and rad
# The tool points down and the fingers open along the world's y axis: columns are the hand's x, y and z axes.
UPRIGHT = np.array([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]])
ELBOW_UP = (0.0, 0.2, 1.7, 0.0, 1.24, 0.0)  # a posture from which the workspace is reached without a turn of the elbow


class Kinematics:
    """The tool's place as a function of the joints, and back."""

    def __init__(self, embodiment: Embodiment) -> None:
        self._model = build(embodiment, [])
        self._data = mujoco.MjData(self._model)
        self._joints = len(embodiment.joints)
        self._site = self._model.site("tool").id
        self._lower, self._upper = np.array([joint.position for joint in embodiment.joints]).T
        self._jacobian = np.empty((6, self._model.nv))

    def _forward(self, joints: Array) -> None:
        self._data.qpos[: self._joints] = joints
        mujoco.mj_kinematics(self._model, self._data)

    def tool(self, joints: Array) -> Array:
        """Where the tool is, world, m, with the arm at `joints` (rad)."""
        self._forward(joints)
        return self._data.site_xpos[self._site].copy()

    def solve(self, position: Array, start: Array) -> Array:
        """Joints within their limits that bring the tool upright to `position`, or as near as can be.

        Damped least squares from `start`: dq = J' (J J' + damping^2)^-1 e (Wampler 1986; Nakamura and Hanafusa 1986),
        `e` being the errors in position (m) and orientation (rad).
        """
        joints = np.clip(start, self._lower, self._upper)
        for _ in range(ITERATIONS):
            self._forward(joints)
            mujoco.mj_comPos(self._model, self._data)
            mujoco.mj_jacSite(self._model, self._data, self._jacobian[:3], self._jacobian[3:], self._site)
            axes = self._data.site_xmat[self._site].reshape(3, 3)
            turn = 0.5 * np.cross(axes.T, UPRIGHT.T).sum(axis=0)  # the rotation still needed, small angles
            error = np.concatenate([position - self._data.site_xpos[self._site], turn])
            if np.abs(error).max() < TOLERANCE:
                break
            jacobian = self._jacobian[:, : self._joints]
            damped = jacobian @ jacobian.T + DAMPING**2 * np.eye(6)
            joints = np.clip(joints + jacobian.T @ np.linalg.solve(damped, error), self._lower, self._upper)
        return joints
