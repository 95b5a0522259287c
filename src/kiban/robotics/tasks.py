"""The tabletop's tasks: what counts as done, where the objects may lie, and how people ask for it in Japanese."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kiban.robotics.scene import COLOURS, DISTRACTOR_COLOURS, SHAPES, Thing

Array = NDArray[np.float64]
Wordings = Literal["train", "held_out"]

INSTRUCTIONS = Path(__file__).with_name("instructions.toml")
NUM_THINGS = 3
AREA = ((0.30, 0.46), (-0.17, 0.17))  # x and y of the objects' centres, m
APART = 0.095  # m between centres


@dataclass(frozen=True)
class Situation:
    """What success is judged by; the policy sees none of it. Positions in m, world frame."""

    tool: Array
    named: Array  # the named object's centre now
    named_start: Array
    half_height: float
    others_moved: float  # the furthest that any other object was displaced along the table


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


def _anywhere(things: list[Thing]) -> bool:
    return True


def _way_is_free(things: list[Thing]) -> bool:
    """No object stands where the gripper and the pushed object will pass."""
    named, *others = things
    return all(abs(o.y - named.y) > 0.085 or not -0.10 < o.x - named.x < 0.15 for o in others)


@dataclass(frozen=True)
class Task:
    """Done when `done` holds for `hold` control periods in a row, within `limit`. The first object is the named one."""

    name: str
    done: Callable[[Situation], bool]
    placed: Callable[[list[Thing]], bool]
    hold: int
    limit: int


TASKS = {
    task.name: task
    for task in (
        Task("reach", _reached, _anywhere, hold=5, limit=50),
        Task("push", _pushed, _way_is_free, hold=1, limit=80),
        Task("pick", _picked, _anywhere, hold=5, limit=80),
    )
}


def place(task: Task, rng: np.random.Generator) -> list[Thing]:
    """Objects of different colours at random places, apart from each other. The first is the one to be named."""
    while True:
        colours = rng.permutation(list(COLOURS))[:NUM_THINGS]
        shapes = rng.choice(list(SHAPES), NUM_THINGS)
        xs, ys = (rng.uniform(*bounds, NUM_THINGS) for bounds in AREA)
        yaws = rng.uniform(-0.5, 0.5, NUM_THINGS)
        places = np.stack([xs, ys], axis=1)
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(NUM_THINGS)
        things = [
            Thing(str(colour), str(shape), float(x), float(y), float(yaw))
            for colour, shape, x, y, yaw in zip(colours, shapes, xs, ys, yaws, strict=True)
        ]
        if gaps.min() > APART and task.placed(things):
            return things


def distractors(things: list[Thing], task: Task, count: int, rng: np.random.Generator) -> list[Thing]:
    """`count` things more, in colours of their own, where they leave the task as it is."""
    extra: list[Thing] = []
    for _ in range(1000):
        if len(extra) == count:
            return extra
        x, y = (rng.uniform(low - 0.03, high + 0.03) for low, high in AREA)
        colour, shape = str(rng.choice(list(DISTRACTOR_COLOURS))), str(rng.choice(list(SHAPES)))
        candidate = Thing(colour, shape, float(x), float(y), float(rng.uniform(-0.5, 0.5)))
        gap = min(np.hypot(other.x - x, other.y - y) for other in [*things, *extra])
        if gap > APART and task.placed([*things, candidate]):
            extra.append(candidate)
    return extra  # the table is full


@cache
def _instructions() -> dict[str, Any]:
    return tomllib.loads(INSTRUCTIONS.read_text(encoding="utf-8"))


def wordings(task: str, which: Wordings) -> list[tuple[str, str]]:
    """(register, sentence with {x} for the object): registers are plain, polite and honorific."""
    return [(register, text) for register, texts in _instructions()[which][task].items() for text in texts]


def names_of(thing: Thing) -> list[str]:
    """Every way that the instructions call it, such as 赤い立方体."""
    words = _instructions()
    return [colour + shape for colour in words["colours"][thing.colour] for shape in words["shapes"][thing.shape]]


def instruction(
    task: str, thing: Thing, which: Wordings, rng: np.random.Generator, register: str | None = None
) -> tuple[str, str]:
    """A register, drawn if none is given, and a sentence in it that asks for `task` with `thing`."""
    drawn = str(rng.choice(sorted({register for register, _ in wordings(task, which)})))
    register = register or drawn
    texts = [text for found, text in wordings(task, which) if found == register]
    return register, str(rng.choice(texts)).format(x=rng.choice(names_of(thing)))


def vocabulary() -> frozenset[str]:
    """Every character that an instruction can hold."""
    return frozenset(INSTRUCTIONS.read_text(encoding="utf-8"))
