"""A scripted expert: it knows where the objects are and moves the tool there. It makes the demonstrations."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from kiban.robotics.environment import TabletopEnv

Array = NDArray[np.float64]

NEAR = 0.014  # m: close enough to a waypoint to go on to the next phase
LOW = 0.02  # m: the tool's height at an object on the table
GAIN = 0.6  # of the remaining way in one control period


def act(env: "TabletopEnv") -> Array:
    """The action that the task asks for now. A function of the situation alone: it recovers from any disturbance."""
    tool, goal = env.tool_position, env.object_position(0)
    waypoint, opening = {"reach": _reach, "push": _push, "pick": _pick}[env.task.name](env, tool, goal)
    bound = env.embodiment.action.upper[0]
    way = GAIN * (waypoint - tool)
    return np.array([*(way * min(1.0, bound / max(float(np.abs(way).max()), 1e-9))), opening])


def _above(goal: Array, height: float) -> Array:
    return np.array([goal[0], goal[1], height])


def _reach(env: "TabletopEnv", tool: Array, goal: Array) -> tuple[Array, float]:
    return goal + [0.0, 0.0, env.named.half_height + 0.02], env.embodiment.gripper.opening[1]


def _push(env: "TabletopEnv", tool: Array, goal: Array) -> tuple[Array, float]:
    """With closed fingers: to a place behind the object, down, then forwards."""
    closed = env.embodiment.gripper.opening[0]
    behind = goal - [0.065, 0.0, 0.0]
    if tool[2] < 0.04 and abs(tool[1] - goal[1]) < NEAR and tool[0] < goal[0]:
        return np.array([goal[0] + 0.05, goal[1], LOW]), closed
    if _in_cone(tool, behind):
        return _above(behind, LOW), closed
    return _above(behind, max(0.10, min(tool[2], 0.16))), closed


def _pick(env: "TabletopEnv", tool: Array, goal: Array) -> tuple[Array, float]:
    """Over the object, down around it, close, lift."""
    opened, closed = env.embodiment.gripper.opening[1], env.embodiment.gripper.opening[0]
    grasp = _above(goal, max(goal[2], LOW))
    if np.linalg.norm(tool - grasp) < NEAR:
        lift = _gripped(env) and env.opening < 0.07
        return grasp + [0.0, 0.0, 0.06 if lift else 0.0], closed
    if _in_cone(tool, grasp):
        return grasp, opened
    return _above(grasp, max(0.11, min(tool[2], 0.16))), opened


def _in_cone(tool: Array, goal: Array) -> bool:
    """Whether the tool may go straight down to `goal`: the higher it is, the further it may be off."""
    return bool(np.linalg.norm((tool - goal)[:2]) < NEAR + 0.15 * max(0.0, tool[2] - goal[2]))


def _gripped(env: "TabletopEnv") -> bool:
    """Whether both fingers touch the named object."""
    named = env.model.geom("object0").id
    touching: set[str] = set()
    for contact in env.data.contact:
        if named in contact.geom:
            touching.update(env.model.geom(int(geom)).name for geom in contact.geom)
    return {"left_finger", "right_finger"} <= touching
