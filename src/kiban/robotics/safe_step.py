"""One safe step: as far towards what an action wants as every limit allows, with room to brake after it."""

import numpy as np
from numpy.typing import NDArray

from kiban.artifacts.kernel import kernel
from kiban.robotics.collision import CLEAR, WORKSPACE, Body, braked, chain_at, follow, pose
from kiban.robotics.kinematics import solve

Array = NDArray[np.float64]

ROUNDING = 1e-9
LEAST_SHARE = 1 / 16  # of a step that is tried before braking instead
REACHED, UPRIGHT_WITHIN = 2e-3, 0.02  # m and rad; how near inverse kinematics must come to what is asked

# Reasons of interventions, a bit each in the kernels; the last three are ACCELERATION << what `collision.judge` says.
REASONS = ("action", "position", "velocity", "acceleration", "workspace", "self-collision", "keep-out")
ACTION, POSITION, VELOCITY, ACCELERATION = 1, 2, 4, 8

TOOL, JOINT, HAND = 0, 1, 2
KINDS = {"tool": TOOL, "joint": JOINT, "mocap": HAND}


@kernel
def braked_all(step: Array, deceleration: Array) -> Array:
    out = np.empty(len(step))
    for i in range(len(step)):
        out[i] = braked(step[i], deceleration[i])
    return out


@kernel
def stopping_step(distance: float, deceleration: float, most: float) -> float:
    """The longest step, up to `most`, after which braking ends within `distance` of where the step began.

    A step s with n more of s - A, s - 2 A, ... comes to (n + 1) s - A n (n + 1) / 2, where n A < s <= (n + 1) A.
    """
    if deceleration >= most:
        return min(max(distance, 0.0), most)
    n = 0
    while n * deceleration < most:
        if distance <= deceleration * (n + 1) * (n + 2) / 2:
            return min((max(distance, 0.0) + deceleration * n * (n + 1) / 2) / (n + 1), most)
        n += 1
    return most


@kernel
def allowed(
    i: int, at: Array, step: Array, lower: Array, upper: Array, velocity: Array, acceleration: Array
) -> tuple[float, float]:
    """The least and the greatest next step of coordinate `i`; that of braking is always between them."""
    brake = braked(step[i], acceleration[i])
    low = max(step[i] - acceleration[i], -stopping_step(at[i] - lower[i], acceleration[i], velocity[i]))
    high = min(step[i] + acceleration[i], stopping_step(upper[i] - at[i], acceleration[i], velocity[i]))
    return min(low, brake), max(high, brake)


@kernel
def amounts(at: Array, step: Array, kind: int, body: Body, given: Array) -> None:
    """What a `step` that ended `at` comes to as an action, in the action's units, into `given`."""
    moving = len(body.lower)
    frames = moving + len(body.hand)
    origins, rotations = np.empty((frames, 3)), np.empty((frames, 3, 3))
    before, after = np.empty((len(body.hand), 3)), np.empty((len(body.hand), 3))
    if kind == TOOL:
        earlier = np.empty(moving)
        for i in range(moving):
            earlier[i] = at[i] - step[i]
        pose(earlier, body, origins, rotations, before)
        pose(at[:moving], body, origins, rotations, after)
    k = 0
    for arm in range(len(body.hand)):
        if kind == TOOL:
            for axis in range(3):
                given[k] = after[arm, axis] - before[arm, axis]
                k += 1
        else:
            for i in range(body.first[arm], body.first[arm + 1]):
                given[k] = step[i]
                k += 1
        given[k] = at[moving + arm]
        k += 1


@kernel
def advance(
    wanted: Array,
    bounds: Array,
    kind: int,
    by_effort: NDArray[np.bool_],
    at: Array,
    step: Array,
    lower: Array,
    upper: Array,
    velocity: Array,
    acceleration: Array,
    body: Body,
) -> int:
    """Moves `at` and `step` (per control period) on by one safe command towards what is `wanted`; the reasons' bits.

    Coordinates are the body's, then the grippers.
    """
    arms, moving = len(body.hand), len(body.lower)
    bits = 0
    bounded = np.empty(len(wanted))
    for i in range(len(wanted)):
        bounded[i] = min(max(wanted[i], bounds[0, i]), bounds[1, i])
        if abs(bounded[i] - wanted[i]) > ROUNDING:
            bits |= ACTION

    # What is asked of each coordinate.
    target = np.empty(len(at))  # the step that is asked
    if kind == TOOL:
        frames = moving + arms
        origins, rotations, tools = np.empty((frames, 3)), np.empty((frames, 3, 3)), np.empty((arms, 3))
        goal = np.empty(3)
        pose(at[:moving], body, origins, rotations, tools)
    k = 0
    for arm in range(arms):
        a, b = body.first[arm], body.first[arm + 1]
        if kind == TOOL:
            for axis in range(3):
                beyond = tools[arm, axis] + bounded[k]
                goal[axis] = min(max(beyond, body.workspaces[arm, 0, axis]), body.workspaces[arm, 1, axis])
                if abs(beyond - goal[axis]) > ROUNDING:
                    bits |= ACCELERATION << WORKSPACE
                k += 1
            # Where the arm is too short, or would have to turn its elbow over, a shorter way or none.
            chain, way = chain_at(arm, body), 1.0
            leaning = solve(tools[arm], at[a:b], chain)[2]
            found, off, turned = solve(goal, at[a:b], chain)
            while off > REACHED or turned > max(UPRIGHT_WITHIN, leaning):
                bits |= ACCELERATION << WORKSPACE
                way = way / 2 if way > LEAST_SHARE else 0.0
                if way == 0.0:
                    break
                for axis in range(3):
                    goal[axis] = 0.5 * (goal[axis] + tools[arm, axis])
                found, off, turned = solve(goal, at[a:b], chain)
            for i in range(a, b):
                target[i] = found[i - a] - at[i] if way > 0.0 else 0.0
        else:
            for i in range(a, b):
                target[i] = bounded[k]
                k += 1
        target[moving + arm] = bounded[k] - at[moving + arm]
        k += 1

    # As far as range, velocity and acceleration allow: each coordinate by itself, an arm that goes to a place in one.
    brake = braked_all(step, acceleration)
    for arm in range(arms):
        share = 1.0
        for i in range(body.first[arm], body.first[arm + 1]):
            low, high = allowed(i, at, step, lower, upper, velocity, acceleration)
            if target[i] > high + ROUNDING or target[i] < low - ROUNDING:
                if abs(target[i]) > velocity[i] + ROUNDING:
                    bits |= VELOCITY
                elif abs(target[i] - step[i]) > acceleration[i] + ROUNDING:
                    bits |= ACCELERATION
                else:
                    bits |= POSITION
            if kind == TOOL:
                way = target[i] - brake[i]
                if way > high - brake[i]:
                    share = min(share, (high - brake[i]) / way)
                elif way < low - brake[i]:
                    share = min(share, (low - brake[i]) / way)
            else:
                target[i] = min(max(target[i], low), high)
        if kind == TOOL and share < 1.0:
            for i in range(body.first[arm], body.first[arm + 1]):
                target[i] = brake[i] + share * (target[i] - brake[i])
        i = moving + arm
        if not by_effort[arm]:
            low, high = allowed(i, at, step, lower, upper, velocity, acceleration)
            # So as to come to rest at the opening that is asked for, and not beyond it.
            if target[i] > 0.0:
                high = max(min(high, stopping_step(target[i], acceleration[i], velocity[i])), brake[i])
            else:
                low = min(max(low, -stopping_step(-target[i], acceleration[i], velocity[i])), brake[i])
            target[i] = min(max(target[i], low), high)

    # As far as it stays clear, with room to brake. The arms that are to blame get a smaller share of their step.
    shares, tried = np.ones(arms), np.empty(len(at))
    for i in range(len(at)):
        tried[i] = target[i]
    while True:
        reason, one, other = follow(at[:moving], tried[:moving], acceleration[:moving], body)
        if reason == CLEAR:
            break
        bits |= ACCELERATION << reason
        if shares[one] == 0.0 and shares[other] == 0.0:  # by rounding alone: that they can brake was seen before
            for i in range(moving):
                tried[i] = brake[i]
            break
        for arm in range(min(one, other), max(one, other) + 1):
            if arm == one or arm == other:
                shares[arm] = shares[arm] / 2 if shares[arm] > LEAST_SHARE else 0.0
                for i in range(body.first[arm], body.first[arm + 1]):
                    tried[i] = brake[i] + shares[arm] * (target[i] - brake[i])
    for i in range(len(at)):
        step[i] = tried[i]
        at[i] = min(max(at[i] + step[i], lower[i]), upper[i])
    return bits
