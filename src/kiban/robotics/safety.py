"""The safety filter: every action, from whomever, passes here before it moves anything.

What comes out is a command that keeps every limit of the embodiment, whatever goes in. Each intervention is counted.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kiban.robotics.embodiment import Embodiment
from kiban.robotics.kinematics import Kinematics

Array = NDArray[np.float64]

SLACK = 1e-3  # m; how far outside the workspace a command's tool may come to lie by the solver's and joints' rounding
ROUNDING = 1e-9


@dataclass(frozen=True)
class Command:
    """What is sent to the motors: joint targets in rad, and the gripper's opening in m."""

    joints: Array
    opening: float


class SafetyFilter:
    """Turns actions (see the embodiment's `action`) into commands.

    The guarantee, by induction from a safe start: joints within their ranges; no joint steps further than its velocity
    allows in a control period; the tool lies in the workspace; the gripper within its range and velocity. An action
    with a NaN, an infinity or a wrong shape is refused: the last command holds.

    `interventions` counts by reason: `refused`, `action` (out of the action's bounds), `workspace`, `velocity`.
    Joint ranges bind inside the inverse kinematics, where they show as `workspace` if the tool cannot go on. That the
    gripper slews to its opening at a limited rate is no intervention: that is what the action means.
    """

    def __init__(self, embodiment: Embodiment) -> None:
        self._kinematics = Kinematics(embodiment.arms[0])
        self._action = np.array([embodiment.action.lower, embodiment.action.upper])
        self._workspace = np.array([embodiment.workspace.lower, embodiment.workspace.upper])
        self._step = np.array([joint.velocity for joint in embodiment.joints]) * embodiment.control_period
        self._opening = np.array(embodiment.gripper.opening)
        assert embodiment.gripper.velocity
        self._slew = embodiment.gripper.velocity * embodiment.control_period
        self.interventions: Counter[str] = Counter()

    def reset(self, joints: Array, opening: float) -> None:
        """Begins from a posture that must itself be safe."""
        self._last = Command(joints.copy(), opening)
        self.interventions.clear()
        assert self._inside(self._kinematics.tool(joints)), "the starting posture lies outside the workspace"

    def command(self, action: Array) -> Command:
        """The safe command that comes nearest to what `action` asks."""
        action = np.asarray(action, dtype=np.float64)
        if action.shape != self._action[0].shape or not np.isfinite(action).all():
            self.interventions["refused"] += 1
            return self._last
        bounded = np.clip(action, *self._action)
        if np.abs(bounded - action).max() > ROUNDING:
            self.interventions["action"] += 1
        tool = self._kinematics.tool(self._last.joints)
        target = np.clip(tool + bounded[:3], *self._workspace)
        if np.abs(target - tool - bounded[:3]).max() > ROUNDING:
            self.interventions["workspace"] += 1
        joints = self._slowed(self._kinematics.solve(target, self._last.joints))
        if not self._inside(self._kinematics.tool(joints)):
            self.interventions["workspace"] += 1
            joints = self._last.joints
        step = np.clip(bounded[3] - self._last.opening, -self._slew, self._slew)
        self._last = Command(joints, float(np.clip(self._last.opening + step, *self._opening)))
        return self._last

    def _slowed(self, joints: Array) -> Array:
        """The same way, but only as far as the slowest joint gets in one control period."""
        step = joints - self._last.joints
        excess = float((np.abs(step) / self._step).max())
        if excess <= 1.0:
            return joints
        self.interventions["velocity"] += 1
        return self._last.joints + step / excess

    def _inside(self, tool: Array) -> bool:
        return bool((tool >= self._workspace[0] - SLACK).all() and (tool <= self._workspace[1] + SLACK).all())
