"""A scripted expert: it knows where the objects are and moves the tool there. It makes the demonstrations."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kiban.robotics.tasks import OPPOSITE, goal_apart, goal_beside

if TYPE_CHECKING:
    from kiban.robotics.environment import TabletopEnv

Array = NDArray[np.float64]

NEAR = 0.014  # m: close enough to a waypoint to go on to the next phase
LOW = 0.02  # m: the tool's height at an object on the table
SETTLED = 0.012  # m: close enough to its goal to let go of
CLEARANCE = 0.09  # m above its goal at which something is carried there: above what stands in between
LOWER = 0.013  # m: so that something small is not pushed over
GAIN = 0.6  # of the remaining way in one control period


def act(env: "TabletopEnv") -> Array:
    """The action that the task asks for now. A function of the situation alone: it recovers from any disturbance."""
    tool, goal = env.tool_position, env.object_position(0)
    does = {"reach": _reach, "push": _push, "pick": _pick, "place": _place, "stack": _stack, "sort": _sort}
    waypoint, opening = does[env.task.doing](env, tool, goal)
    bound = env.embodiment.action.upper[0]
    way = GAIN * (waypoint - tool)
    return np.array([*(way * min(1.0, bound / max(float(np.abs(way).max()), 1e-9))), opening])


def _above(goal: Array, height: float) -> Array:
    return np.array([goal[0], goal[1], height])


def _reach(env: "TabletopEnv", tool: Array, goal: Array) -> tuple[Array, float]:
    return goal + [0.0, 0.0, env.named.half_height + 0.02], env.embodiment.gripper.opening[1]


def _push(env: "TabletopEnv", tool: Array, goal: Array) -> tuple[Array, float]:
    """With closed fingers: to a place behind the object, all the way down, then forwards."""
    closed = env.embodiment.gripper.opening[0]
    low = LOW if env.named.scale >= 1 else LOWER
    behind = goal - [0.065, 0.0, 0.0]
    if tool[2] < low + 0.008 and abs(tool[1] - goal[1]) < NEAR and tool[0] < goal[0]:
        return np.array([goal[0] + 0.05, goal[1], low]), closed
    if _in_cone(tool, behind):
        return _above(behind, low), closed
    return _above(behind, max(0.10, min(tool[2], 0.16))), closed


def _pick(env: "TabletopEnv", tool: Array, goal: Array) -> tuple[Array, float]:
    """Over the object, down around it, close, lift."""
    opened, closed = env.embodiment.gripper.opening[1], env.embodiment.gripper.opening[0]
    grasp = _above(goal, max(goal[2], LOW))
    if np.linalg.norm(tool - grasp) < NEAR:
        lift = _gripped(env, 0) and env.opening < 0.07
        return grasp + [0.0, 0.0, 0.06 if lift else 0.0], closed
    if _in_cone(tool, grasp):
        return grasp, opened
    return _above(grasp, max(0.11, min(tool[2], 0.16))), opened


def _place(env: "TabletopEnv", tool: Array, goal: Array) -> tuple[Array, float]:
    side = env.arrangement.side
    assert side is not None
    return _carry(env, 0, _above(goal_beside(env.object_position(1), side), env.things[0].half_height))


def _stack(env: "TabletopEnv", tool: Array, goal: Array) -> tuple[Array, float]:
    second = env.object_position(1)
    return _carry(env, 0, second + [0.0, 0.0, env.things[1].half_height + env.things[0].half_height])


def _sort(env: "TabletopEnv", tool: Array, goal: Array) -> tuple[Array, float]:
    """First the named object, then the other; the one that is in hand is put down before."""
    side = env.arrangement.side
    assert side is not None
    sides = (side, OPPOSITE[side])
    goals = [_above(goal_apart(env.object_position(i), sides[i]), env.things[i].half_height) for i in range(len(sides))]
    index = 1 if _settled(env, 0, goals[0]) and not env.fingers_on(0) else 0
    return _carry(env, index, goals[index])


def _settled(env: "TabletopEnv", index: int, goal: Array) -> bool:
    off = env.object_position(index) - goal
    return bool(np.linalg.norm(off[:2]) < SETTLED and abs(off[2]) < 0.005)


def _carry(env: "TabletopEnv", index: int, goal: Array) -> tuple[Array, float]:
    """Object `index` to where its centre is at `goal`: pick it, carry it over there, lower it, let go, go up."""
    opened, closed = env.embodiment.gripper.opening[1], env.embodiment.gripper.opening[0]
    tool, thing = env.tool_position, env.object_position(index)
    if _settled(env, index, goal):
        # Straight up, and not before the fingers are off it.
        return tool + [0.0, 0.0, 0.0 if env.fingers_on(index) else 0.02], opened
    if _gripped(env, index) and env.opening < 0.07 and np.linalg.norm((tool - thing)[:2]) < 0.03:
        over = goal + (tool - thing)
        if np.linalg.norm((thing - goal)[:2]) < 0.008:
            return over - [0.0, 0.0, 0.001], closed
        height = over[2] + CLEARANCE
        if tool[2] < height - 0.02 and np.linalg.norm((thing - goal)[:2]) > 0.02:
            return _above(tool, height), closed  # up before it goes sideways
        return _above(over, height), closed
    grasp = _above(thing, max(thing[2], LOW))
    if np.linalg.norm(tool - grasp) < NEAR:
        return grasp, closed
    if _in_cone(tool, grasp):
        return grasp, opened
    height = max(0.11, min(tool[2], 0.16))
    if tool[2] < height - 0.03 and np.linalg.norm((tool - grasp)[:2]) > NEAR:
        return _above(tool, height), opened  # not through what stands in between
    return _above(grasp, height), opened


def _in_cone(tool: Array, goal: Array) -> bool:
    """Whether the tool may go straight down to `goal`: the higher it is, the further it may be off."""
    return bool(np.linalg.norm((tool - goal)[:2]) < NEAR + 0.15 * max(0.0, tool[2] - goal[2]))


def _gripped(env: "TabletopEnv", index: int) -> bool:
    """Whether both fingers touch object `index`."""
    return len(env.fingers_on(index)) == 2
