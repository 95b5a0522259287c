"""Where a robot's capsules are, and whether a movement stays clear of the robot itself and of keep-out volumes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kiban.artifacts.kernel import kernel
from kiban.robotics.embodiment import Capsule, Embodiment
from kiban.robotics.kinematics import Chain, chain_of, forward, place

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

CLEARANCE = 0.01  # m between what may not touch, at every pose that is looked at
JOINED = 2  # capsules of links this many joints apart are one piece: that they meet is how the arm is built
SLACK = 1e-3  # m; how far outside the workspace a tool may come to lie by the solver's and the joints' rounding

CLEAR, WORKSPACE, SELF, KEEP_OUT = 0, 1, 2, 3


class Body(NamedTuple):
    """A robot's geometry for the kernels. A coordinate is a joint (rad), or x, y or z of a hand without joints (m).

    A arms, J coordinates, C capsules. `first` [A + 1] is where each arm's coordinates begin; its frames, the base's and
    one a joint, begin at `first_frame` [A]. The one frame of a hand without joints is the hand's.
    """

    first: Indices
    first_frame: Indices
    hand: NDArray[np.bool_]  # [A]
    bases: Array  # [A, 3]
    turns: Array  # [A, 3, 3]
    tools: Array  # [A, 3]
    origins: Array  # [J, 3]
    axes: Array  # [J, 3]
    lower: Array  # [J]
    upper: Array  # [J]
    reach: Array  # [J]: no point of the robot moves further than that times the coordinate's change
    workspaces: Array  # [A, 2, 3]
    arm_of: Indices  # [C]
    frame_of: Indices  # [C]
    starts: Array  # [C, 3]
    ends: Array  # [C, 3]
    radii: Array  # [C]
    pairs: Indices  # [.., 2]: capsules that must not meet
    boxes: Array  # [K, 2, 3]
    kept_out: Indices  # [.., 2]: a capsule, and the box that it must stay out of


def body_of(embodiment: Embodiment) -> Body:
    arms = embodiment.arms
    chains = [chain_of(arm) for arm in arms]
    sizes = [len(arm.joints) or 3 for arm in arms]
    frames = [len(arm.joints) + 1 for arm in arms]
    first, first_frame = np.cumsum([0, *sizes]), np.cumsum([0, *frames])[:-1]
    capsules = [(a, arm.links.index(c.link), c) for a, arm in enumerate(arms) for c in arm.capsules]
    pairs = [
        (i, j)
        for i, (a, link, _) in enumerate(capsules)
        for j, (b, other, _) in enumerate(capsules[:i])
        if a != b or abs(link - other) > JOINED
    ]
    kept_out = [
        (i, k)
        for i, (a, link, capsule) in enumerate(capsules)
        for k in range(len(embodiment.keep_out))
        if not capsule.may_touch and (link > 0 or arms[a].hand is not None)  # a base stands where it was put
    ]
    reach: list[float] = []
    ranges: list[Array] = []
    for arm, chain in zip(arms, chains, strict=True):
        if arm.hand is not None:
            reach += [1.0] * 3
            ranges.append(np.array([arm.workspace.lower, arm.workspace.upper]).T)
            continue
        ranges.append(np.array([chain.lower, chain.upper]).T)
        longest = [  # from a link's origin to its furthest end of a capsule, or the tool
            max(np.linalg.norm(end) for end in [(0.0, 0.0, 0.0), *_ends(arm.capsules, joint.name)])
            for joint in arm.joints
        ]
        longest[-1] = max(longest[-1], np.linalg.norm(chain.tool))
        furthest = 0.0
        of_arm = []
        for i in reversed(range(len(arm.joints))):
            furthest = max(float(longest[i]), furthest)
            of_arm.append(furthest)
            furthest += float(np.linalg.norm(chain.origins[i]))
        reach += reversed(of_arm)
    padded = [np.zeros((3, 3)) if arm.hand is not None else None for arm in arms]
    return Body(
        first=first,
        first_frame=first_frame,
        hand=np.array([arm.hand is not None for arm in arms]),
        bases=np.array([chain.base for chain in chains]),
        turns=np.array([chain.turn for chain in chains]),
        tools=np.array([chain.tool for chain in chains]),
        origins=np.concatenate([c.origins if p is None else p for c, p in zip(chains, padded, strict=True)]),
        axes=np.concatenate([c.axes if p is None else p for c, p in zip(chains, padded, strict=True)]),
        lower=np.concatenate(ranges)[:, 0].copy(),
        upper=np.concatenate(ranges)[:, 1].copy(),
        reach=np.array(reach),
        workspaces=np.array([(arm.workspace.lower, arm.workspace.upper) for arm in arms]),
        arm_of=np.array([a for a, _, _ in capsules], np.int64),
        frame_of=np.array([first_frame[a] + link for a, link, _ in capsules], np.int64),
        starts=np.array([c.start for _, _, c in capsules]).reshape(-1, 3),
        ends=np.array([c.end for _, _, c in capsules]).reshape(-1, 3),
        radii=np.array([c.radius for _, _, c in capsules]),
        pairs=np.array(pairs, np.int64).reshape(-1, 2),
        boxes=np.array([(volume.lower, volume.upper) for volume in embodiment.keep_out]).reshape(-1, 2, 3),
        kept_out=np.array(kept_out, np.int64).reshape(-1, 2),
    )


def _ends(capsules: tuple[Capsule, ...], link: str) -> list[tuple[float, float, float]]:
    return [end for capsule in capsules if capsule.link == link for end in (capsule.start, capsule.end)]


@kernel
def chain_at(arm: int, body: Body) -> Chain:
    """The chain of arm number `arm`."""
    a, b = body.first[arm], body.first[arm + 1]
    return Chain(
        body.bases[arm],
        body.turns[arm],
        body.origins[a:b],
        body.axes[a:b],
        body.tools[arm],
        body.lower[a:b],
        body.upper[a:b],
    )


@kernel
def pose(at: Array, body: Body, origins: Array, rotations: Array, tools: Array) -> None:
    """Fills the frames' `origins` and `rotations` and the `tools` [A, 3] of the robot with its coordinates at `at`."""
    for arm in range(len(body.hand)):
        a, b, f = body.first[arm], body.first[arm + 1], body.first_frame[arm]
        if body.hand[arm]:
            for axis in range(3):
                origins[f, axis] = tools[arm, axis] = at[a + axis]
                for column in range(3):
                    rotations[f, axis, column] = body.turns[arm, axis, column]
        else:
            last = f + b - a
            forward(at[a:b], chain_at(arm, body), origins[f : last + 1], rotations[f : last + 1])
            place(origins[last], rotations[last], body.tools[arm], tools[arm])


@kernel
def judge(
    at: Array, end: bool, body: Body, origins: Array, rotations: Array, tools: Array, points: Array
) -> tuple[int, int, int]:
    """What is wrong with the robot at `at`: (CLEAR or why, an arm to blame, the other); of workspaces at an `end`."""
    pose(at, body, origins, rotations, tools)
    if end:
        for arm in range(len(body.hand)):
            for axis in range(3):
                place_ = tools[arm, axis]
                low, high = body.workspaces[arm, 0, axis], body.workspaces[arm, 1, axis]
                if place_ < low - SLACK or place_ > high + SLACK:
                    return WORKSPACE, arm, arm
    for i in range(len(body.radii)):
        f = body.frame_of[i]
        place(origins[f], rotations[f], body.starts[i], points[i, 0])
        place(origins[f], rotations[f], body.ends[i], points[i, 1])
    for k in range(len(body.pairs)):
        i, j = body.pairs[k, 0], body.pairs[k, 1]
        if segments_nearer(points[i], points[j], body.radii[i] + body.radii[j] + CLEARANCE):
            return SELF, body.arm_of[i], body.arm_of[j]
    for k in range(len(body.kept_out)):
        i, box = body.kept_out[k, 0], body.kept_out[k, 1]
        if segment_box_distance(points[i], body.boxes[box]) < body.radii[i] + CLEARANCE:
            return KEEP_OUT, body.arm_of[i], body.arm_of[i]
    return CLEAR, 0, 0


@kernel
def braked(step: float, deceleration: float) -> float:
    """The step after `step` (both per control period) when braking."""
    return np.copysign(max(abs(step) - deceleration, 0.0), step)


@kernel
def follow(start: Array, step: Array, deceleration: Array, body: Body) -> tuple[int, int, int]:
    """What is wrong with a first `step` from `start` and braking after it, each coordinate in straight lines from
    command to command: see `judge`.

    Poses are looked at so closely that between two no point moves further than twice CLEARANCE, so that what
    is clear at each of them is apart all along.
    """
    n = len(body.lower)
    at, now, leg = np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        at[i], leg[i] = start[i], step[i]
    frames = n + len(body.hand)  # at most
    origins, rotations = np.empty((frames, 3)), np.empty((frames, 3, 3))
    tools, points = np.empty((len(body.hand), 3)), np.empty((len(body.radii), 2, 3))
    while True:
        travel = 0.0
        for i in range(n):
            travel += abs(leg[i]) * body.reach[i]
        poses = max(1, int(np.ceil(travel / (2 * CLEARANCE)))) if len(body.radii) else 1
        for k in range(1, poses + 1):
            for i in range(n):
                now[i] = at[i] + leg[i] if k == poses else at[i] + leg[i] * (k / poses)
            reason, one, other = judge(now, k == poses, body, origins, rotations, tools, points)
            if reason != CLEAR:
                return reason, one, other
        moving = False
        for i in range(n):
            at[i] = now[i]
            leg[i] = braked(leg[i], deceleration[i])
            moving = moving or leg[i] != 0.0
        if not moving:
            return CLEAR, 0, 0


@kernel
def segments_nearer(one: Array, other: Array, distance: float) -> bool:
    """Whether two segments [2, 3] come nearer to each other than `distance` anywhere.

    The squared distance is convex in the two places along the segments: minimise over one place for the other's best,
    clamp, and back (Ericson, Real-Time Collision Detection, 2005, section 5.1.9).
    """
    uu = uv = vv = uw = vw = ww = 0.0
    for axis in range(3):
        u, v = one[1, axis] - one[0, axis], other[1, axis] - other[0, axis]
        w = one[0, axis] - other[0, axis]
        uu, uv, vv = uu + u * u, uv + u * v, vv + v * v
        uw, vw, ww = uw + u * w, vw + v * w, ww + w * w
    bound = np.sqrt(uu) + np.sqrt(vv) + distance
    if ww > bound * bound:
        return False
    determinant = uu * vv - uv * uv
    s = 0.0
    if determinant > 1e-12 * uu * vv:
        s = min(max((uv * vw - vv * uw) / determinant, 0.0), 1.0)
    t = (uv * s + vw) / vv if vv > 0.0 else 0.0
    t = min(max(t, 0.0), 1.0)
    if uu > 0.0:
        s = min(max((uv * t - uw) / uu, 0.0), 1.0)
    square = ww + uu * s * s + vv * t * t + 2 * (uw * s - vw * t - uv * s * t)
    return square < distance * distance


@kernel
def segment_box_distance(segment: Array, box: Array) -> float:
    """From a segment [2, 3] to a box [2, 3] (lower, upper), m; 0 if they meet.

    The squared distance is convex along the segment: its derivative is bisected.
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        t = 0.5 * (low + high)
        slope = 0.0
        for axis in range(3):
            way = segment[1, axis] - segment[0, axis]
            x = segment[0, axis] + t * way
            slope += way * (min(x - box[0, axis], 0.0) + max(x - box[1, axis], 0.0))
        if slope > 0.0:
            high = t
        else:
            low = t
    square = 0.0
    for axis in range(3):
        x = segment[0, axis] + low * (segment[1, axis] - segment[0, axis])
        out = min(x - box[0, axis], 0.0) + max(x - box[1, axis], 0.0)
        square += out * out
    return np.sqrt(square)
