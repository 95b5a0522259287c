"""Actions as nobody should send them, and a check of what a safety filter made of them that shares no code with it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiban.robotics.embodiment import Arm, Embodiment

Array = NDArray[np.float64]


class Liar:
    """Says that it is an array, and is not."""

    def __array__(self, *arguments: Any, **named: Any) -> Array:
        raise RuntimeError("no")


ITSELF: list[Any] = []
ITSELF.append(ITSELF)

STRANGE: list[Any] = [
    Liar(),
    ITSELF,
    None,
    "前へ",
    [],
    {},
    3.0,
    True,
    b"\x00",
    [[0.0]],
    [0.0, [1.0]],
    1j,
    object(),
    10**400,
    np.array(["a"]),
    np.zeros((4, 4)),
    np.zeros(0),
]


def hostile(embodiment: Embodiment, count: int, seed: int) -> Iterator[Any]:
    """`count` actions in bursts of a few: steps, chatter, drift, noise, what is huge, tiny, not finite or no action."""
    rng = np.random.default_rng(seed)
    lower, upper = np.array(embodiment.action.lower), np.array(embodiment.action.upper)
    size, left = len(lower), count
    while left > 0:
        n = min(int(rng.integers(1, 60)), left)
        left -= n
        kind = rng.integers(9)
        if kind == 0:  # one corner, held
            burst = np.repeat(rng.choice([-1.0, 1.0], (1, size)), n, axis=0) * upper
        elif kind == 1:  # from one extreme to the other, each time
            burst = np.where((np.arange(n) % 2 == 0)[:, None], lower, upper) * rng.choice([1.0, 3.0])
        elif kind == 2:  # what is allowed, at random
            burst = rng.uniform(lower, upper, (n, size))
        elif kind == 3:  # a drift in some directions
            burst = np.repeat(rng.uniform(lower, upper, (1, size)) * rng.choice([0.0, 1.0], (1, size)), n, axis=0)
        elif kind == 4:  # far too much
            burst = rng.normal(size=(n, size)) * 10.0 ** rng.uniform(-2, 300, (n, 1))
        elif kind == 5:  # next to nothing
            burst = rng.choice([5e-324, -5e-324, 1e-310, -0.0, 1e-18], (n, size))
        elif kind == 6:  # some numbers are none
            burst = rng.uniform(lower, upper, (n, size))
            burst[rng.random((n, size)) < 0.3] = rng.choice([np.nan, np.inf, -np.inf])
        elif kind == 7:  # of other types and shapes
            yield from (STRANGE[k] for k in rng.integers(len(STRANGE), size=n))
            continue
        else:  # another number of numbers
            yield from (rng.uniform(-1, 1, int(k)) for k in rng.integers(0, 2 * size, size=n) if k != size)
            continue
        yield from burst


def frames(arm: Arm, joints: Array) -> tuple[list[Array], list[Array]]:
    """Of each link, the base first: origins [N, 3] and rotations [N, 3, 3], for `joints` [N, n]."""
    turn = _turn(np.array([0.0, 0.0, 1.0]), np.full(len(joints), arm.yaw))
    origins, rotations = [np.tile(np.array(arm.base), (len(joints), 1))], [turn]
    if arm.hand is not None:
        return [joints], rotations
    for joint, angle in zip(arm.joints, joints.T, strict=True):
        origins.append(origins[-1] + rotations[-1] @ np.array(joint.origin))
        rotations.append(rotations[-1] @ _turn(np.array(joint.axis), angle))
    return origins, rotations


def _turn(axis: Array, angle: Array) -> Array:
    """exp of the axis' cross product matrix K times the angle: 1 + sin K + (1 - cos) K K."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    sine, cosine = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + sine * cross + (1 - cosine) * (cross @ cross)


def poses(embodiment: Embodiment, at: Array) -> tuple[list[Array], list[tuple[int, int, Any, Array, Array]]]:
    """Of commands [N, J] each arm's tool [N, 3], and each capsule as (arm, link, capsule, start [N, 3], end [N, 3])."""
    tools, capsules, first = [], [], 0
    for number, arm in enumerate(embodiment.arms):
        size = len(arm.joints) or 3
        origins, rotations = frames(arm, at[:, first : first + size])
        first += size
        tools.append(origins[-1] + (rotations[-1] @ np.array(arm.tool) if arm.joints else 0.0))
        for capsule in arm.capsules:
            link = arm.links.index(capsule.link)
            ends = [origins[link] + rotations[link] @ np.array(end) for end in (capsule.start, capsule.end)]
            capsules.append((number, link, capsule, *ends))
    return tools, capsules


def _point_segment(point: Array, start: Array, end: Array) -> Array:
    way = end - start
    along = ((point - start) * way).sum(-1) / np.maximum((way * way).sum(-1), 1e-300)
    return np.linalg.norm(point - start - np.clip(along, 0, 1)[..., None] * way, axis=-1)


def gap(p: Array, q: Array, r: Array, s: Array) -> Array:
    """Between segments p-q and r-s, [N]: at an end of one, or where the common perpendicular meets both."""
    ends = [_point_segment(p, r, s), _point_segment(q, r, s), _point_segment(r, p, q), _point_segment(s, p, q)]
    u, v, w = q - p, s - r, r - p
    normal = np.cross(u, v)
    square = (normal * normal).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        a = (np.cross(w, v) * normal).sum(-1) / square
        b = (np.cross(w, u) * normal).sum(-1) / square
        apart = np.abs((w * normal).sum(-1)) / np.sqrt(square)
    between = (square > 1e-18) & (a > 0) & (a < 1) & (b > 0) & (b < 1)
    return np.minimum.reduce([*ends, np.where(between, apart, np.inf)])


def least_gaps(embodiment: Embodiment, at: Array) -> tuple[Array, Array]:
    """Surface to surface, m, [N]: between capsules more than two joints apart, and to the keep-out volumes.

    To a volume from 33 points of the capsule's segment: never less than the true distance by more than a little.
    """
    _, capsules = poses(embodiment, at)
    itself = volumes = np.full(len(at), np.inf)
    for i, (arm, link, capsule, start, end) in enumerate(capsules):
        for other_arm, other_link, other, other_start, other_end in capsules[:i]:
            if arm != other_arm or abs(link - other_link) > 2:
                apart = gap(start, end, other_start, other_end) - capsule.radius - other.radius
                itself = np.minimum(itself, apart)
        if capsule.may_touch or (link == 0 and embodiment.arms[arm].hand is None):
            continue
        for volume in embodiment.keep_out:
            for share in np.linspace(0, 1, 33):
                point = start + share * (end - start)
                out = point - np.clip(point, volume.lower, volume.upper)
                volumes = np.minimum(volumes, np.linalg.norm(out, axis=-1) - capsule.radius)
    return itself, volumes


def check(embodiment: Embodiment, at: Array, grippers: Array) -> None:
    """That commands `at` [N, J] and `grippers` [N, A], the first being the start at rest, keep every limit."""
    period = embodiment.control_period
    assert np.isfinite(at).all() and np.isfinite(grippers).all()
    coordinates = [at]
    lower, upper, velocity, acceleration = [], [], [], []
    for arm in embodiment.arms:
        for joint in arm.joints:
            lower.append(joint.position[0])
            upper.append(joint.position[1])
            velocity.append(joint.velocity)
            acceleration.append(joint.acceleration)
        if arm.hand is not None:
            lower += arm.workspace.lower
            upper += arm.workspace.upper
            velocity += [arm.hand.velocity] * 3
            acceleration += [arm.hand.acceleration] * 3
    for arm, gripper in zip(embodiment.arms, grippers.T, strict=True):
        if arm.gripper.control == "effort":
            assert (np.abs(gripper) <= arm.gripper.effort).all()
            continue
        coordinates.append(gripper[:, None])
        lower.append(arm.gripper.opening[0])
        upper.append(arm.gripper.opening[1])
        velocity.append(arm.gripper.velocity)
        acceleration.append(arm.gripper.acceleration)
    values = np.concatenate(coordinates, axis=1)
    assert (values >= np.array(lower)).all() and (values <= np.array(upper)).all()
    speed = np.diff(values, axis=0, prepend=values[:1]) / period
    assert (np.abs(speed) <= np.array(velocity) * (1 + 1e-9) + 1e-9).all()
    change = np.diff(speed, axis=0) / period
    assert (np.abs(change) <= np.array(acceleration) * (1 + 1e-9) + 1e-7).all()
    halfway = (at[1:] + at[:-1]) / 2
    for first in range(0, len(at), 50_000):
        some = at[first : first + 50_000]
        for arm, tool in zip(embodiment.arms, poses(embodiment, some)[0], strict=True):
            assert (tool >= np.array(arm.workspace.lower) - 1e-3).all()
            assert (tool <= np.array(arm.workspace.upper) + 1e-3).all()
        itself, volumes = least_gaps(embodiment, some)
        assert itself.min() >= 0.01 - 1e-9 and volumes.min() >= 0.01 - 1e-9
        itself, volumes = least_gaps(embodiment, halfway[first : first + 50_000])
        assert itself.min() > 0 and volumes.min() > 0
