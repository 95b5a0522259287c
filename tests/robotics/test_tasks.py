"""Tasks and their Japanese: what counts as done, and that nothing measured was trained on."""

import tomllib

import numpy as np
import pytest

from kiban.artifacts.errors import KibanError
from kiban.robotics.embodiment import available, load
from kiban.robotics.scene import COLOURS, SHAPES, Thing
from kiban.robotics.seeds import DEMONSTRATIONS, ROLLOUTS, episode_seed
from kiban.robotics.stage import INSTRUCTIONS, TASK_NAMES
from kiban.robotics.tasks import TASKS, Situation, Task, instruction, names_of, place, wordings

CUBE = Thing("red", "cube", 0.35, 0.0, 0.0)


def situation(
    tool: tuple[float, float, float] = (0.0, 0.0, 0.3),
    moved: tuple[float, float, float] = (0, 0, 0),
    others: float = 0.0,
) -> Situation:
    start = np.array([0.35, 0.0, 0.018])
    return Situation(np.array(tool), start + moved, start, 0.018, others)


def test_the_stage_knows_the_tasks() -> None:
    assert TASK_NAMES == tuple(TASKS)


@pytest.mark.parametrize(
    ("task", "now", "done"),
    [
        ("reach", situation(tool=(0.35, 0.0, 0.056)), True),
        ("reach", situation(tool=(0.35, 0.04, 0.056)), False),
        ("push", situation(moved=(0.06, 0.0, 0.0)), True),
        ("push", situation(moved=(-0.06, 0.0, 0.0)), False),  # pulled
        ("push", situation(moved=(0.06, 0.0, 0.05)), False),  # lifted
        ("push", situation(moved=(0.06, 0.0, 0.0), others=0.03), False),  # swept the table
        ("pick", situation(moved=(0.0, 0.0, 0.07)), True),
        ("pick", situation(moved=(0.0, 0.0, 0.03)), False),
    ],
)
def test_what_counts_as_done(task: str, now: Situation, done: bool) -> None:
    assert TASKS[task].done(now) is done


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_objects_are_told_apart_by_colour_and_stand_apart(task: Task) -> None:
    rng = np.random.default_rng(0)
    named = set()
    for _ in range(100):
        things = place(task, rng)
        assert len({thing.colour for thing in things}) == len(things) == 3
        assert min(np.hypot(a.x - b.x, a.y - b.y) for a in things for b in things if a is not b) > 0.09
        named.add((things[0].colour, things[0].shape))
    assert len(named) > 10


def test_held_out_wordings_are_no_training_wordings() -> None:
    everything = {
        which: {text for task in TASKS for _, text in wordings(task, which)} for which in ("train", "held_out")
    }
    assert not everything["train"] & everything["held_out"]
    for task in TASKS:
        for which in ("train", "held_out"):
            texts = wordings(task, which)
            assert {register for register, _ in texts} == {"plain", "polite", "honorific"}
            assert all(text.count("{x}") == 1 for _, text in texts)
            assert len(texts) == len({text for _, text in texts})


def test_no_sentence_means_two_tasks_or_two_objects() -> None:
    meaning: dict[str, tuple[str, str, str]] = {}
    for task in TASKS:
        for colour in COLOURS:
            for shape in SHAPES:
                for name in names_of(Thing(colour, shape, 0, 0, 0)):
                    for which in ("train", "held_out"):
                        for _, text in wordings(task, which):
                            assert meaning.setdefault(text.format(x=name), (task, colour, shape)) == (
                                task,
                                colour,
                                shape,
                            )
    assert len(meaning) > 1000


def test_an_instruction_names_its_object() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        register, sentence = instruction("push", CUBE, "train", rng)
        assert any(name in sentence for name in names_of(CUBE)) and register in ("plain", "polite", "honorific")


def test_no_seed_is_demonstrated_and_measured() -> None:
    seeds = {
        purpose: {episode_seed(purpose, 0, task, n) for task in TASKS for n in range(500)}
        for purpose in (DEMONSTRATIONS, ROLLOUTS)
    }
    assert len(seeds[DEMONSTRATIONS]) == len(seeds[ROLLOUTS]) == 1500
    assert all(seed % 2 == 0 for seed in seeds[DEMONSTRATIONS]) and all(seed % 2 == 1 for seed in seeds[ROLLOUTS])


def test_embodiments_are_data() -> None:
    assert "tabletop-arm" in available()
    arm = load("tabletop-arm")
    assert len(arm.action.names) == len(arm.action.lower) == len(arm.action.upper) == len(arm.action.units)
    assert arm.fps * arm.control_period == 1
    with pytest.raises(KibanError, match="embodiment 'asimo': there is no such robot; use one of tabletop-arm"):
        load("asimo")
    assert tomllib.loads(INSTRUCTIONS.read_text(encoding="utf-8"))["colours"].keys() == COLOURS.keys()
