"""Tasks and their Japanese: what counts as done, and that nothing measured was trained on."""

import tomllib
from typing import get_args

import numpy as np
import pytest

from kiban.artifacts.errors import KibanError
from kiban.robotics.embodiment import available, load
from kiban.robotics.instructions import check
from kiban.robotics.scene import COLOURS, SHAPES, Thing
from kiban.robotics.seeds import DEMONSTRATIONS, ROLLOUTS, episode_seed
from kiban.robotics.stage import DEFAULT_TASKS, INSTRUCTIONS, TaskName
from kiban.robotics.tasks import (
    DOINGS,
    SIDES,
    TASKS,
    Arrangement,
    Situation,
    Task,
    arrange,
    besides,
    distractors,
    extremes,
)
from kiban.robotics.wording import instruction, names, names_of, wordings

CUBE = Thing("red", "cube", 0.35, 0.0, 0.0)


def situation(
    tool: tuple[float, float, float] = (0.0, 0.0, 0.3),
    moved: tuple[float, float, float] = (0, 0, 0),
    others: float = 0.0,
) -> Situation:
    start = np.array([0.35, 0.0, 0.018])
    return Situation(np.array(tool), start + moved, start, 0.018, others)


def test_the_stage_knows_the_tasks() -> None:
    assert get_args(TaskName) == tuple(TASKS)
    assert DEFAULT_TASKS == ("reach", "push", "pick")  # those of the demo
    assert {"place", "stack", "sort", "pick-shape", "push-size", "stack-relation"} <= set(TASKS)


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
    assert DOINGS[task].done(now) is done


def pair(
    named: tuple[float, float, float], second: tuple[float, float, float], side: str | None = "left", **more: object
) -> Situation:
    """Two cubes, 3.6 cm high, that began on the table."""
    start = np.array([0.35, 0.0, 0.018])
    settings = {"second": np.array(second), "second_start": start, "second_half_height": 0.018, "side": side} | more
    return Situation(np.zeros(3), np.array(named), start, 0.018, 0.0, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "now", "done"),
    [
        ("place", pair((0.36, 0.10, 0.018), (0.35, 0.0, 0.018)), True),
        ("place", pair((0.36, 0.10, 0.018), (0.35, 0.0, 0.018), side="right"), False),
        ("place", pair((0.44, 0.01, 0.018), (0.35, 0.0, 0.018), side="far"), True),
        ("place", pair((0.26, 0.01, 0.018), (0.35, 0.0, 0.018), side="near"), True),
        ("place", pair((0.41, 0.10, 0.018), (0.35, 0.0, 0.018)), False),  # as much beyond as beside
        ("place", pair((0.36, 0.10, 0.050), (0.35, 0.0, 0.018)), False),  # in the air
        ("place", pair((0.36, 0.10, 0.018), (0.35, 0.0, 0.018), touched=True), False),  # still held
        ("stack", pair((0.35, 0.01, 0.054), (0.35, 0.0, 0.018)), True),
        ("stack", pair((0.35, 0.03, 0.054), (0.35, 0.0, 0.018)), False),  # about to fall
        ("stack", pair((0.35, 0.01, 0.080), (0.35, 0.0, 0.018)), False),
        ("stack", pair((0.35, 0.01, 0.054), (0.35, 0.0, 0.018), touched=True), False),
        ("sort", pair((0.35, 0.15, 0.018), (0.35, -0.12, 0.018)), True),
        ("sort", pair((0.35, 0.15, 0.018), (0.35, -0.12, 0.018), side="right"), False),  # the wrong way round
        ("sort", pair((0.35, 0.15, 0.018), (0.35, 0.0, 0.018)), False),  # half of it
    ],
)
def test_what_counts_as_done_with_two(task: str, now: Situation, done: bool) -> None:
    assert DOINGS[task].done(now) is done


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_what_is_named_can_be_told_apart(task: Task) -> None:
    """The sentence's words for an object are true of that one alone."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        arrangement = arrange(task, rng)
        things = arrangement.things
        assert min(np.hypot(a.x - b.x, a.y - b.y) for a in things for b in things if a is not b) > 0.09
        named = things[: task.rule.num_named]
        for index, thing in enumerate(named):
            others = [other for other in things if other is not thing]
            assert names(task, arrangement, index)
            if task.reference == "colour" or (task.reference == "relation" and index > 0):
                assert all(other.colour != thing.colour for other in others)
            elif task.reference == "shape":
                assert all(other.shape != thing.shape for other in others)
            elif task.reference == "size":
                scales = [other.scale for other in others]
                assert thing.scale > max(scales) or thing.scale < min(scales)
        if task.reference == "relation":
            for side in extremes(things):
                assert all(np.subtract([things[0].x, things[0].y], [o.x, o.y]) @ SIDES[side] > 0.05 for o in things[1:])
            assert extremes(things) or besides(things)


def test_relations_are_as_the_robot_sees_them() -> None:
    """It looks along +x: left is +y."""
    cube = Thing("red", "cube", 0.35, 0.10, 0.0)
    others = [Thing("blue", "box", 0.34, 0.0, 0.0), Thing("green", "box", 0.33, -0.10, 0.0)]
    assert extremes([cube, *others]) == ["left"]
    assert besides([cube, *others]) == [(1, "left")]
    found = names(TASKS["pick-relation"], Arrangement([cube, *others]), 0)
    assert "一番左の物" in found and "青い箱の左にある物" in found and not any("右" in name for name in found)


def test_distractors_leave_the_task_as_it_is() -> None:
    rng = np.random.default_rng(0)
    for task in TASKS.values():
        arrangement = arrange(task, rng)
        extra = distractors(arrangement, task, 1, rng)
        assert all(thing.colour not in COLOURS for thing in extra)
        assert task.rule.placed([*arrangement.things, *extra], arrangement.side)


def test_held_out_wordings_are_no_training_wordings() -> None:
    everything = {
        which: {text for doing in DOINGS for _, text in wordings(doing, which)} for which in ("train", "held_out")
    }
    assert not everything["train"] & everything["held_out"]
    for doing, rule in DOINGS.items():
        for which in ("train", "held_out"):
            texts = wordings(doing, which)
            assert {register for register, _ in texts} == {"plain", "polite", "honorific"}
            assert all(text.count("{x}") == 1 and text.count("{y}") == rule.num_named - 1 for _, text in texts)
            assert all(("{side}" in text) == bool(rule.sides) for _, text in texts)
            assert len(texts) == len({text for _, text in texts})


def test_no_sentence_of_an_episode_is_held_out_and_trained() -> None:
    """Whole sentences, names filled in: of every task, many episodes' of either set."""
    drawn: dict[str, set[str]] = {"train": set(), "held_out": set()}
    for which, found in drawn.items():
        rng = np.random.default_rng(0)
        for task in TASKS.values():
            for _ in range(60):
                _, sentence = instruction(task, arrange(task, rng), which, rng)  # type: ignore[arg-type]
                assert check(sentence, task.name) == sentence and "{" not in sentence
                found.add(sentence)
    assert len(drawn["train"]) > 500 and not drawn["train"] & drawn["held_out"]


def test_no_sentence_means_two_tasks_or_two_objects() -> None:
    meaning: dict[str, tuple[str, str, str]] = {}
    for doing in ("reach", "push", "pick"):
        for colour in COLOURS:
            for shape in SHAPES:
                for name in names_of(Thing(colour, shape, 0, 0, 0)):
                    for which in ("train", "held_out"):
                        for _, text in wordings(doing, which):
                            same = (doing, colour, shape)
                            assert meaning.setdefault(text.replace("{x}", name), same) == same
    assert len(meaning) > 1000


def test_an_instruction_names_its_objects_and_sides() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        things = [CUBE, Thing("blue", "box", 0.4, 0.1, 0.0)]
        register, sentence = instruction(TASKS["sort"], Arrangement(things, "left"), "train", rng)
        assert any(name in sentence for name in names_of(CUBE)) and register in ("plain", "polite", "honorific")
        assert any(name in sentence for name in names_of(things[1])) and "左" in sentence and "右" in sentence


def test_no_seed_is_demonstrated_and_measured() -> None:
    seeds = {
        purpose: {episode_seed(purpose, 0, task, n) for task in TASKS for n in range(100)}
        for purpose in (DEMONSTRATIONS, ROLLOUTS)
    }
    assert len(seeds[DEMONSTRATIONS]) == len(seeds[ROLLOUTS]) == 100 * len(TASKS)
    assert all(seed % 2 == 0 for seed in seeds[DEMONSTRATIONS]) and all(seed % 2 == 1 for seed in seeds[ROLLOUTS])


def test_embodiments_are_data() -> None:
    assert "tabletop-arm" in available()
    arm = load("tabletop-arm")
    assert len(arm.action.names) == len(arm.action.lower) == len(arm.action.upper) == len(arm.action.units)
    assert arm.fps * arm.control_period == 1
    with pytest.raises(KibanError, match="embodiment 'asimo': there is no such robot; use one of .*tabletop-arm"):
        load("asimo")
    assert tomllib.loads(INSTRUCTIONS.read_text(encoding="utf-8"))["colours"].keys() == COLOURS.keys()
