"""The tabletop's tasks: what counts as done, and where the objects may lie.

A task is something to do (reach, push, pick, place, stack, sort) and a way of naming the objects it is done to: by
colour, by shape, by size, or by where they are. Left, right, far and near are those of the robot, which looks along +x.
`wordings` has the sentences.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kiban.robotics.scene import COLOURS, DISTRACTOR_COLOURS, SHAPES, Thing

Array = NDArray[np.float64]
Wordings = Literal["train", "held_out"]
Side = Literal["left", "right", "far", "near"]
Reference = Literal["colour", "shape", "size", "relation"]

NUM_THINGS = 3
AREA = ((0.30, 0.46), (-0.17, 0.17))  # x and y of the objects' centres, m
APART = 0.095  # m between centres

SIDES: dict[Side, tuple[float, float]] = {"left": (0, 1), "right": (0, -1), "far": (1, 0), "near": (-1, 0)}
OPPOSITE: dict[Side, Side] = {"left": "right", "right": "left", "far": "near", "near": "far"}
BESIDE = {"left": 0.10, "right": 0.10, "far": 0.085, "near": 0.085}  # m between centres; the fingers open sideways
GOALS = ((0.27, 0.49), (-0.21, 0.21))  # where something may be put beside another, m
MIDDLE = 0.06  # m left and right, where what is to be sorted lies
SORTED = 0.10  # m left and right, from where it counts as sorted
SORTED_AT = 0.15  # m left and right, where the expert puts it
SIZES = {2: (0.7, 1.25), 3: (0.7, 1.25, 1.0)}  # of things of one shape; the extremes are named


@dataclass(frozen=True)
class Situation:
    """What success is judged by; the policy sees none of it. Positions in m, world frame."""

    tool: Array
    named: Array  # the named object's centre now
    named_start: Array
    half_height: float
    others_moved: float  # the furthest that any other object was displaced along the table
    second: Array | None = None  # of the second object that the sentence names
    second_start: Array | None = None
    second_half_height: float = 0.0
    side: Side | None = None
    touched: bool = False  # whether a finger touches either of them


def _reached(now: Situation) -> bool:
    """Within 3 cm of a point 2 cm above the object's top."""
    goal = now.named_start + [0.0, 0.0, now.half_height + 0.02]
    return bool(np.linalg.norm(now.tool - goal) < 0.03)


def _pushed(now: Situation) -> bool:
    """Moved at least 5 cm forwards (away from the robot), still standing low, the others left where they were."""
    forwards = now.named[0] - now.named_start[0]
    return bool(forwards > 0.05 and now.named[2] < now.named_start[2] + 0.02 and now.others_moved < 0.02)


def _picked(now: Situation) -> bool:
    """Lifted at least 6 cm."""
    return bool(now.named[2] > now.named_start[2] + 0.06)


def _placed(now: Situation) -> bool:
    """On the table, let go of, 5 to 15 cm to the side of the second object and in line with it to 4 cm."""
    assert now.second is not None and now.side is not None
    offset = (now.named - now.second)[:2]
    direction = np.array(SIDES[now.side])
    along, across = offset @ direction, abs(offset @ direction[::-1])
    low = now.named[2] < now.named_start[2] + 0.01
    return bool(0.05 < along < 0.15 and across < 0.04 and low and not now.touched and now.others_moved < 0.03)


def _stacked(now: Situation) -> bool:
    """Let go of, and resting on the second object: its centre within 2 cm of that one's, its height right to 8 mm."""
    assert now.second is not None
    aside = np.linalg.norm((now.named - now.second)[:2])
    height = now.named[2] - now.second[2] - now.second_half_height - now.half_height
    return bool(aside < 0.02 and abs(height) < 0.008 and not now.touched and now.others_moved < 0.03)


def _sorted(now: Situation) -> bool:
    """Both on the table and let go of, at least 10 cm from the middle, the named one to its side."""
    assert now.second is not None and now.second_start is not None and now.side is not None
    direction = np.array(SIDES[now.side])
    low = now.named[2] < now.named_start[2] + 0.01 and now.second[2] < now.second_start[2] + 0.01
    apart = now.named[:2] @ direction > SORTED and -now.second[:2] @ direction > SORTED
    return bool(low and apart and not now.touched)


def _anywhere(things: list[Thing], side: Side | None) -> bool:
    return True


def _way_is_free(things: list[Thing], side: Side | None) -> bool:
    """No object stands where the gripper and the pushed object will pass."""
    named, *others = things
    return all(abs(o.y - named.y) > 0.085 or not -0.10 < o.x - named.x < 0.15 for o in others)


def goal_beside(second: Array, side: Side) -> Array:
    """Where the named object goes (x and y, m) that is to be placed to the `side` of `second`."""
    return np.asarray(second[:2] + BESIDE[side] * np.array(SIDES[side]))


def _goal_is_free(things: list[Thing], side: Side | None) -> bool:
    """The place beside the second object is on the table, the named object not there yet, and no other either."""
    assert side is not None
    goal = goal_beside(np.array([things[1].x, things[1].y]), side)
    inside = all(low < at < high for at, (low, high) in zip(goal, GOALS, strict=True))
    return inside and all(np.hypot(o.x - goal[0], o.y - goal[1]) > 0.09 for o in (things[0], *things[2:]))


def goal_apart(thing: Array, side: Side) -> Array:
    """Where something that is sorted to `side` goes (x and y, m) from where it lies."""
    return np.array([thing[0], SORTED_AT * SIDES[side][1]])


def _in_the_middle(things: list[Thing], side: Side | None) -> bool:
    """What is to be sorted lies in the middle, and nothing else there or where it will go."""
    two = things[:2]
    goals = [(thing.x, y) for thing in two for y in (-SORTED_AT, SORTED_AT)]
    free = all(np.hypot(o.x - x, o.y - y) > 0.09 for o in things[2:] for x, y in goals)
    return free and all(abs(thing.y) < MIDDLE for thing in two) and all(abs(thing.y) > 0.1 for thing in things[2:])


@dataclass(frozen=True)
class Doing:
    """Done when `done` holds for `hold` control periods in a row, within `limit`. `sides` a sentence can name."""

    done: Callable[[Situation], bool]
    placed: Callable[[list[Thing], Side | None], bool]
    hold: int
    limit: int
    sides: tuple[Side, ...] = ()
    num_things: int = NUM_THINGS
    num_named: int = 1


DOINGS = {
    "reach": Doing(_reached, _anywhere, hold=5, limit=50),
    "push": Doing(_pushed, _way_is_free, hold=1, limit=80),
    "pick": Doing(_picked, _anywhere, hold=5, limit=80),
    "place": Doing(_placed, _goal_is_free, hold=5, limit=160, sides=("left", "right", "far", "near"), num_named=2),
    "stack": Doing(_stacked, _anywhere, hold=5, limit=160, num_named=2),
    "sort": Doing(_sorted, _in_the_middle, hold=5, limit=280, sides=("left", "right"), num_things=2, num_named=2),
}


@dataclass(frozen=True)
class Task:
    """`doing` (a key of DOINGS), to objects named by `reference`."""

    doing: str
    reference: Reference

    @property
    def name(self) -> str:
        return self.doing if self.reference == "colour" else f"{self.doing}-{self.reference}"

    @property
    def rule(self) -> Doing:
        return DOINGS[self.doing]


TASKS = {
    task.name: task
    for reference in ("colour", "shape", "size", "relation")
    for task in (Task(doing, reference) for doing in DOINGS)
    if task != Task("sort", "relation")  # that would be the same sentence as its outcome
}


@dataclass(frozen=True)
class Arrangement:
    """The objects, the named ones first, and the side that the sentence names."""

    things: list[Thing]
    side: Side | None = None


def arrange(task: Task, rng: np.random.Generator) -> Arrangement:
    """Objects at random places, apart from each other, such that the task's names mean the first ones alone."""
    rule, count = task.rule, task.rule.num_things
    while True:
        colours, shapes, scales = _looks(task, count, rng)
        xs, ys = (rng.uniform(*bounds, count) for bounds in AREA)
        if rule.num_things == 2:  # those that are sorted lie in the middle
            ys = ys * (MIDDLE / AREA[1][1])
        yaws = rng.uniform(-0.5, 0.5, count)
        places = np.stack([xs, ys], axis=1)
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(count)
        things = [
            Thing(str(colour), str(shape), float(x), float(y), float(yaw), float(scale))
            for colour, shape, x, y, yaw, scale in zip(colours, shapes, xs, ys, yaws, scales, strict=True)
        ]
        side: Side | None = rule.sides[int(rng.integers(len(rule.sides)))] if rule.sides else None
        named = task.reference != "relation" or extremes(things) or besides(things)
        if gaps.min() > APART and named and rule.placed(things, side):
            return Arrangement(things, side)


def _looks(task: Task, count: int, rng: np.random.Generator) -> tuple[list[str], list[str], list[float]]:
    """Colours, shapes and sizes that let the task's objects be told apart by its reference."""
    if task.reference in ("colour", "relation"):
        colours = list(rng.permutation(list(COLOURS))[:count])
        return colours, list(rng.choice(list(SHAPES), count)), [1.0] * count
    colours = list(rng.choice(list(COLOURS), count))
    if task.reference == "shape":
        return colours, list(rng.permutation(list(SHAPES))[:count]), [1.0] * count
    # A large box is too long for the gripper. What is stacked is the smaller one.
    shape, sizes = str(rng.choice(["cube", "cylinder"])), list(SIZES[count])
    swapped = task.doing != "stack" and rng.random() < 0.5
    return colours, [shape] * count, [sizes[1], sizes[0], *sizes[2:]] if swapped else sizes


def extremes(things: list[Thing]) -> list[Side]:
    """The sides towards which the first object is the outermost by 5 cm."""
    at = np.array([[thing.x, thing.y] for thing in things])
    return [side for side, direction in SIDES.items() if ((at[0] - at[1:]) @ np.array(direction)).min() > 0.05]


def besides(things: list[Thing]) -> list[tuple[int, Side]]:
    """(object, side): the first object is to that side of it, and nothing else is anywhere near there."""
    at = np.array([[thing.x, thing.y] for thing in things])
    found: list[tuple[int, Side]] = []
    for anchor in range(1, len(things)):
        for side, d in SIDES.items():
            direction = np.array(d)
            along = (at - at[anchor]) @ direction
            across = np.abs((at - at[anchor]) @ direction[::-1])
            others = [i for i in range(1, len(things)) if i != anchor]
            clear = all(along[i] < 0 or across[i] > along[i] + 0.03 for i in others)
            if along[0] > 0.07 and across[0] < 0.5 * along[0] and clear:
                found.append((anchor, side))
    return found


def distractors(arrangement: Arrangement, task: Task, count: int, rng: np.random.Generator) -> list[Thing]:
    """`count` things more, in colours of their own, where they leave the task as it is."""
    extra: list[Thing] = []
    for _ in range(1000):
        if len(extra) == count:
            return extra
        x, y = (rng.uniform(low - 0.03, high + 0.03) for low, high in AREA)
        colour, shape = str(rng.choice(list(DISTRACTOR_COLOURS))), str(rng.choice(list(SHAPES)))
        candidate = Thing(colour, shape, float(x), float(y), float(rng.uniform(-0.5, 0.5)))
        things = [*arrangement.things, candidate]
        gap = min(np.hypot(other.x - x, other.y - y) for other in [*arrangement.things, *extra])
        told_apart = task.reference != "relation" or (
            extremes(things) == extremes(things[:-1]) and besides(things) == besides(things[:-1])
        )
        if gap > APART and told_apart and task.rule.placed(things, arrangement.side):
            extra.append(candidate)
    return extra  # the table is full
