"""How people ask for the tabletop's tasks in Japanese: instructions.toml, put together."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from kiban.robotics.scene import Thing
from kiban.robotics.tasks import OPPOSITE, Arrangement, Task, Wordings, besides, extremes

INSTRUCTIONS = Path(__file__).with_name("instructions.toml")


@cache
def _language() -> dict[str, Any]:
    return tomllib.loads(INSTRUCTIONS.read_text(encoding="utf-8"))


def vocabulary() -> frozenset[str]:
    """Every character that an instruction can hold."""
    return frozenset(INSTRUCTIONS.read_text(encoding="utf-8"))


def wordings(doing: str, which: Wordings) -> list[tuple[str, str]]:
    """(register, sentence): registers are plain, polite and honorific. {x} stands for the object, and where there are
    such, {y} for the second one, {side} for a side and {other} for the side opposite."""
    return [(register, text) for register, texts in _language()[which][doing].items() for text in texts]


def names_of(thing: Thing) -> list[str]:
    """Every way that the instructions call it by colour and shape, such as 赤い立方体."""
    words = _language()
    return [colour + shape for colour in words["colours"][thing.colour] for shape in words["shapes"][thing.shape]]


def names(task: Task, arrangement: Arrangement, index: int) -> list[str]:
    """Every way that the task's instructions call object `index`, the first or the second."""
    words, things = _language(), arrangement.things
    thing = things[index]
    if task.reference == "shape":
        return list(words["shapes"][thing.shape])
    if task.reference == "size":
        size = "largest" if thing.scale == max(other.scale for other in things) else "smallest"
        forms = words["sizes" if len(things) > 2 else "sizes_of_two"][size]
        return [form.format(s=shape) for form in forms for shape in words["shapes"][thing.shape]]
    if task.reference == "relation" and index == 0:
        forms = words["relations"]
        found = [
            form.format(side=words["sides"][side], s=thing)
            for side in extremes(things)
            for form in forms["outermost"]
            for thing in forms["things"]
        ]
        found += [
            form.format(a=anchor, side=words["sides"][side], s=thing)
            for other, side in besides(things)
            for form in forms["beside"]
            for anchor in names_of(things[other])
            for thing in forms["things"]
        ]
        return found
    return names_of(thing)


def instruction(
    task: Task, arrangement: Arrangement, which: Wordings, rng: np.random.Generator, register: str | None = None
) -> tuple[str, str]:
    """A register, drawn if none is given, and a sentence in it that asks for `task` with the arrangement's objects."""
    drawn = str(rng.choice(sorted({register for register, _ in wordings(task.doing, which)})))
    register = register or drawn
    text = str(rng.choice([text for found, text in wordings(task.doing, which) if found == register]))
    return register, fill(text, task, arrangement, rng)


def fill(text: str, task: Task, arrangement: Arrangement, rng: np.random.Generator) -> str:
    """`text` with the names of the arrangement's objects and sides in the place of {x}, {y}, {side} and {other}."""
    sides = _language()["sides"]
    filled = text.replace("{x}", str(rng.choice(names(task, arrangement, 0))))
    if "{y}" in filled:
        filled = filled.replace("{y}", str(rng.choice(names(task, arrangement, 1))))
    if arrangement.side is not None:
        filled = filled.replace("{side}", sides[arrangement.side])
        filled = filled.replace("{other}", sides[OPPOSITE[arrangement.side]])
    return filled
