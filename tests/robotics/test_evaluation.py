"""Evaluating: pairs on the same seeds, records that survive a kill, figures from records, refusals in one line."""

import dataclasses
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kiban.artifacts.errors import KibanError
from kiban.artifacts.intervals import wilson
from kiban.artifacts.progress import Progress
from kiban.cli.robot_evaluate import evaluate
from kiban.robotics import evaluation
from kiban.robotics.evaluation import Plan
from kiban.robotics.instructions import check, read
from kiban.robotics.perturbations import NONE, STANDARD, Perturbation, parse
from kiban.robotics.rollout import EXPERT, Record, Request, play
from kiban.robotics.suites import SUITES
from tests.commands import KIBAN, kiban_json

QUIET = Progress(quiet=True)


def plan(**changes: object) -> Plan:
    settings = {"tasks": ("reach", "push"), "episodes": 2, "seeds": (1,)} | changes
    return Plan(EXPERT, "", EXPERT, SUITES["tabletop"], **settings)  # type: ignore[arg-type]


# What is played


def test_conditions_share_their_seeds_and_objects() -> None:
    asked = plan(tasks=("push",), wordings="all", perturbations=(Perturbation(camera=0.05), Perturbation(latency=1)))
    requests = asked.requests()
    assert [condition[:2] for condition in asked.conditions()] == [
        ("held_out", None), ("train", None), ("held_out", "plain"), ("held_out", "polite"), ("held_out", "honorific"),
        ("train", None), ("train", None),
    ]  # fmt: skip
    for number in range(2):
        assert len({request.seed for request in requests if request.number == number}) == 1
    records = [play(request) for request in requests if request.number == 0]
    assert [record.condition for record in records] == [
        "held_out", "train", "held_out plain", "held_out polite", "held_out honorific", "train camera=5cm",
        "train latency=1",
    ]  # fmt: skip
    assert [record.register for record in records[2:5]] == ["plain", "polite", "honorific"]
    assert records[1].instruction == records[5].instruction != records[0].instruction


def test_records_depend_on_the_request_alone(tmp_path: Path) -> None:
    """Not on the number of processes, nor on what was played before."""
    asked = plan(perturbations=(Perturbation(distractors=2, mass=2.0),))
    serial = evaluation.evaluate(asked, tmp_path / "serial", QUIET, processes=1, films=False)
    spread = evaluation.evaluate(asked, tmp_path / "spread", QUIET, processes=2, films=False)
    assert serial == spread
    [first, *_] = asked.requests()
    assert dataclasses.asdict(play(first)) == serial["episodes"][0]


def test_latency_delays_what_is_done() -> None:
    def steps(latency: int) -> int:
        return play(Request(EXPERT, "", "reach", "train", 0, 3, perturbation=Perturbation(latency=latency))).steps

    assert steps(0) < steps(3)


def test_a_bound_register_and_a_given_sentence_change_nothing_else() -> None:
    request = Request(EXPERT, "", "pick", "train", 0, 5)
    free, bound = play(request), play(dataclasses.replace(request, register="honorific"))
    given = play(dataclasses.replace(request, instruction="赤い箱を取って"))
    assert (bound.register, given.register, given.instruction) == ("honorific", "given", "赤い箱を取って")
    assert free.steps == bound.steps == given.steps


# What is kept


def test_an_evaluation_goes_on_from_its_records(tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    whole = evaluation.evaluate(plan(episodes=3), tmp_path / "whole", QUIET, 1, films=False)
    evaluation.evaluate(plan(), folder, QUIET, 1, films=False)
    records = folder / evaluation.RECORDS
    lines = records.read_text().splitlines(keepends=True)
    records.write_text("".join(lines[:3]) + lines[3][:40])  # killed in the middle of a line
    untouched = records.read_text().splitlines()[:3]
    assert evaluation.evaluate(plan(episodes=3), folder, QUIET, 1, films=False) == whole
    assert records.read_text().splitlines()[:3] == untouched and len(records.read_text().splitlines()) == 6
    assert json.loads((folder / evaluation.REPORT).read_text()) == whole


def test_records_of_another_evaluation_are_not_counted(tmp_path: Path) -> None:
    evaluation.evaluate(plan(episodes=1), tmp_path / "a", QUIET, 1, films=False)
    other = dataclasses.replace(plan(episodes=1), digest="another")
    with pytest.raises(KibanError, match="holds an evaluation with another policy; name another folder"):
        evaluation.evaluate(other, tmp_path / "a", QUIET, 1, films=False)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("")
    with pytest.raises(KibanError, match="is not empty and no evaluation"):
        evaluation.evaluate(plan(), tmp_path / "b", QUIET, 1, films=False)
    (tmp_path / "a" / evaluation.RECORDS).write_text('{"task": "reach"}\n')
    with pytest.raises(KibanError, match="line 1: is no record of an episode"):
        evaluation.evaluate(plan(), tmp_path / "a", QUIET, 1, films=False)


@pytest.mark.slow
def test_a_killed_evaluation_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    command = [
        "robot", "evaluate", "--policy", "expert", "--task", "pick", "--episodes", "30", "--out", str(folder),
        "--processes", "1", "--json",
    ]  # fmt: skip
    process = subprocess.Popen([KIBAN, *command], stdout=subprocess.DEVNULL)
    records = folder / evaluation.RECORDS
    while not records.exists() or len(records.read_bytes().splitlines()) < 5:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = records.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    answer = kiban_json(*command)
    assert records.read_bytes().startswith(kept) and len(answer["episodes"]) == 30
    assert len({episode["number"] for episode in answer["episodes"]}) == 30


# The figures


def records_of(outcomes: dict[str, list[bool]], condition: str = "held_out") -> list[Record]:
    return [
        Record(task, condition.split()[0], n, n, "plain", "", success, 1, {}, condition, 1)
        for task, found in outcomes.items()
        for n, success in enumerate(found)
    ]


def test_groups_count_alike_in_the_average() -> None:
    """Many easy tasks weigh no more than a few hard ones, as in the published averages."""
    suite = dataclasses.replace(SUITES["tabletop"], groups={"a": "easy", "b": "easy", "c": "hard"})
    asked = dataclasses.replace(plan(tasks=("a", "b", "c"), episodes=4), suite=suite)
    found = evaluation.report(asked, records_of({"a": [True] * 4, "b": [True] * 4, "c": [False] * 3 + [True]}))
    assert [task["successes"] for task in found["tasks"]] == [4, 4, 1]
    assert found["tasks"][2]["interval"] == list(wilson(1, 4)) and found["tasks"][2]["group"] == "hard"
    assert (found["groups"]["easy"]["success_rate"], found["groups"]["hard"]["success_rate"]) == (1.0, 0.25)
    assert found["average"] == pytest.approx(0.625) and found["success_rate"] == pytest.approx(9 / 12)
    low, high = found["average_interval"]
    assert low < 0.625 < high and found["groups"]["easy"]["interval"][1] == 1.0


def test_differences_are_of_pairs() -> None:
    asked = plan(tasks=("reach",), episodes=4, wordings="all")
    outcomes = {"held_out": [1, 1, 0, 0], "train": [1, 1, 1, 0], "held_out plain": [1, 1, 1, 0]}
    outcomes |= {"held_out polite": [1, 1, 1, 0], "held_out honorific": [0, 0, 0, 0]}
    found = evaluation.report(
        asked, [r for name, hits in outcomes.items() for r in records_of({"reach": [bool(h) for h in hits]}, name)]
    )
    rows = {row["condition"]: row for row in found["compared_wordings"]}
    assert rows["held_out"]["difference"] == -0.25 and rows["held_out honorific"]["difference"] == -0.75
    assert rows["held_out plain"]["difference_interval"] == [0.0, 0.0] and "difference" not in rows["train"]
    low, high = rows["held_out"]["difference_interval"]
    assert low <= -0.25 <= high


def test_seeds_are_reported_apart_and_together() -> None:
    found = evaluation.evaluate(plan(tasks=("reach",), seeds=(1, 2), episodes=1), None, QUIET, 1, films=False)
    assert found["tasks"][0]["episodes"] == 2 and found["average_of_seed"].keys() == {"1", "2"}
    assert found["episodes"][0]["seed"] != found["episodes"][1]["seed"]


# Perturbations and instructions


def test_perturbations_are_named_axes() -> None:
    assert [perturbation.name for perturbation in STANDARD] == [
        "camera=2cm", "light=50%", "distractors=2", "wording", "mass=200%", "friction=50%", "latency=2",
    ]  # fmt: skip
    assert parse(perturbation.name for perturbation in STANDARD) == STANDARD
    assert parse(["camera=15mm, light=120%"]) == (Perturbation(camera=0.015, light=1.2),)
    assert NONE.name == "none"


@pytest.mark.parametrize(
    "text", ["gravity=2", "camera", "camera=2", "camera=9m", "light=dark", "mass=0%", "latency=-1", "", "mass=100%"]
)
def test_what_is_no_perturbation_is_refused(text: str) -> None:
    with pytest.raises(KibanError, match="write it like camera=2cm"):
        parse([text])


@pytest.mark.parametrize("sentence", ["赤い箱を押してください", "ドアを開けて", "「箱」をAの位置へ", "ｶｷﾞを開けて"])
def test_japanese_is_accepted(sentence: str) -> None:
    assert check(f" {sentence} ", "x") == sentence


@pytest.mark.parametrize(
    ("sentence", "why"),
    [
        ("", "is empty"), ("　\t", "is empty"), ("Push the puck to the goal", "is not Japanese"),
        ("把冰球推到目标位置", "is not Japanese"), ("퍽을 목표로 밀어", "is not Japanese"),
        ("12345", "is not Japanese"),
        ("please open the door に", "is not Japanese"), ("箱を押して" * 50, "has 250 characters"),
        ("箱を\x00押して", "control"),
    ],
)  # fmt: skip
def test_what_is_no_japanese_instruction_is_refused(sentence: str, why: str) -> None:
    with pytest.raises(KibanError, match=why) as caught:
        check(sentence, "x")
    assert "\n" not in str(caught.value)


def test_instructions_are_read_from_lines_of_either_kind(tmp_path: Path) -> None:
    file = tmp_path / "sentences.tsv"
    file.write_text('reach\t箱に手を伸ばして\n\n# 注\n{"task": "push", "sentence": "箱を押して"}\nreach\t箱へ寄って\n')
    assert read(file, ("reach", "push")) == {"reach": ("箱に手を伸ばして", "箱へ寄って"), "push": ("箱を押して",)}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("reach 箱に手を伸ばして", "line 1: no tab"),
        ("reach\t箱に\nreach\t", "line 2: the instruction is empty"),
        ("reach\tReach the box", "line 1: 'Reach the box' is not Japanese"),
        ("dance\t踊って", "line 1: there is no task 'dance' here"),
        ("reach\t箱に寄って", "no sentence for push"),
        ('{"task": "reach"}', 'line 1: give {"task"'),
        ('{"task": ', "line 1: not JSON"),
        (b"\xff\xfe\x00", "cannot be read as UTF-8"),
        ("# nothing\n", "no sentence for reach, push"),
    ],
)
def test_a_wrong_file_of_instructions_is_one_line(tmp_path: Path, content: str | bytes, why: str) -> None:
    file = tmp_path / "sentences.tsv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(KibanError) as caught:
        read(file, ("reach", "push"), needed=("reach", "push"))
    assert why in str(caught.value) and "\n" not in str(caught.value)


# The command


def test_the_command_reports_tasks_groups_and_average(tmp_path: Path) -> None:
    pytest.importorskip("metaworld", reason="pip install 'kiban[metaworld]'")
    file = tmp_path / "sentences.jsonl"
    file.write_text('{"task": "reach-v3", "sentence": "印まで手を動かしてね"}\n')
    answer = kiban_json(
        "robot", "evaluate", "--policy", "expert", "--suite", "mt50-ja", "--episodes", "2",
        "--instructions", file, "--out", tmp_path / "out", "--films", "--json",
    )  # fmt: skip
    [task] = answer["tasks"]
    assert (task["name"], task["group"], task["episodes"]) == ("reach-v3", "easy", 2)
    assert task["successes"] == 2 and answer["average"] == 1.0 and answer["groups"].keys() == {"easy"}
    assert {episode["instruction"] for episode in answer["episodes"]} == {"印まで手を動かしてね"}
    assert (tmp_path / "out" / "films" / "reach-v3.gif").stat().st_size > 1000
    assert len((tmp_path / "out" / evaluation.RECORDS).read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"suite": "libero"}, "suite 'libero': there is no such suite; use one of tabletop"),
        ({"task": ["fly"]}, "--task fly: tabletop has no such task"),
        ({"instruction": " "}, "--instruction: the instruction is empty"),
        ({"instruction": "Push the box"}, "is not Japanese"),
        ({"films": True}, "--films: needs --out"),
        ({"policy": "oracle"}, "--policy oracle: use expert"),
        ({"wordings": "some"}, "--wordings some: use held-out or train or all"),
        ({"instruction": "箱を押して", "wordings": "all"}, "--wordings: has no effect"),
        ({"instruction": "箱を押して", "perturb": ["wording"]}, "'wording': has no effect"),
        ({"renderer": "gl", "task": ["reach"], "episodes": 1, "processes": 1}, "drawn by rays alone"),
    ],
)
def test_the_command_refuses_in_one_line(options: dict[str, Any], why: str) -> None:
    with pytest.raises(KibanError) as caught:
        evaluate(**({"policy": "expert", "episodes": 1, "wordings": "held-out", "renderer": "rays"} | options))
    assert why in str(caught.value) and "\n" not in str(caught.value)


def test_average_interval_contains_what_it_is_of() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        groups = [[list(rng.random(5) < p) for p in rng.random(3)] for _ in range(2)]
        low, high = evaluation._average_interval(groups)
        assert low <= np.mean([np.mean([np.mean(o) for o in group]) for group in groups]) <= high
