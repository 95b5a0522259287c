"""The loop on real time: a simulated robot, drivers that block and fail, planners that are slow, a real policy."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kiban.artifacts.errors import KibanError
from kiban.robotics import control
from kiban.robotics.agent import Agent, load_policy
from kiban.robotics.chunking import RealTimeAgent
from kiban.robotics.control import ControlLoop, posture_of
from kiban.robotics.embodiment import Embodiment, load
from kiban.robotics.language import Reader
from kiban.robotics.safety import Command
from kiban.robotics.scene import Thing
from kiban.robotics.simulated import SimulatedRobot
from tests.robotics.hostile import check, least_gaps
from tests.robotics.test_policy import arm_policy as arm_policy  # a fixture

Array = NDArray[np.float64]

# With patience: on a machine that is busy with other tests, threads wait for a processor for a quarter of a second.
ARM, TWO_ARMS = (load(name).model_copy(update={"stale_after": 1.0}) for name in ("tabletop-arm", "bimanual-arm"))


class Watched(SimulatedRobot):
    """Keeps what it was sent, and does `trouble` with the number of the command before it answers."""

    def __init__(self, embodiment: Embodiment, trouble: Any = lambda number: None) -> None:
        super().__init__(embodiment, [Thing("red", "cube", 0.45, 0.0, 0.0)], "赤い立方体を押してください。")
        self.commands: list[Command] = []
        self.halts, self._trouble = 0, trouble

    def send(self, command: Command) -> None:
        self.commands.append(command)
        self._trouble(len(self.commands))
        super().send(command)

    def halt(self) -> None:
        self.halts += 1
        super().halt()


class Counting:
    """Plans actions 1, 2, 3, ... tenths of a millimetre up, and goes on from what is left of the last chunk."""

    def __init__(self, seconds: float = 0.0, chunk: int = 8, execute: int = 4) -> None:
        self.seconds, self.size, self.execute = seconds, chunk, execute
        self.delays: list[int] = []

    def chunk(self, observation: dict[str, Any], last: Array | None, delay: int) -> Array:
        time.sleep(self.seconds)
        self.delays.append(delay)
        first = 1 if last is None else round(last[0, 2] / 1e-4)
        numbers = np.arange(first, first + self.size)
        return np.stack([0 * numbers, 0 * numbers, numbers * 1e-4, np.full(self.size, 0.08)], axis=1)


class Always:
    """The same action again and again."""

    execute = 4

    def __init__(self, action: Array) -> None:
        self.action = action

    def chunk(self, observation: dict[str, Any], last: Array | None, delay: int) -> Array:
        return np.repeat(self.action[None], 8, axis=0)


UP = np.array([0.0, 0.0, 0.004, 0.08])


def kept_limits(robot: Watched, count: int | None = None) -> None:
    """Of the first `count` commands, from where such a robot begins."""
    joints, grippers = posture_of(robot.embodiment, Watched(robot.embodiment).observe()["state"])
    commands = robot.commands[:count]
    at = np.stack([joints, *(command.joints for command in commands)])
    check(robot.embodiment, at, np.stack([grippers, *(command.grippers for command in commands)]))


def test_it_keeps_time_and_leaves_no_action_out(tmp_path: Path) -> None:
    """Inference takes more than two ticks; every action is carried out once, in order, and none is waited for."""
    robot, planner = Watched(ARM), Counting(seconds=0.12)
    loop = ControlLoop(robot, planner, log=tmp_path / "log.jsonl")
    report = loop.run(1.5)
    assert report.stopped is None and report.ticks == 30 and report.chunks >= 3
    moved = [round(c.action[2] / 1e-4) for c in robot.commands[:30] if not c.reasons]
    assert moved == list(range(1, len(moved) + 1)) and len(moved) > 15
    assert 3 <= report.delay <= 8 and max(planner.delays[2:]) >= 3
    assert report.period[0] == pytest.approx(0.05, abs=0.01) and report.inference[0] >= 0.12
    assert report.work[0] < 0.01 and report.answer[0] < 0.05
    tops = [c.joints for c in robot.commands[-2:]]
    assert np.array_equal(tops[0], tops[1])  # at rest at the end
    kept_limits(robot)


def test_commands_do_not_come_faster_than_the_period() -> None:
    """After a tick that came late, none hurries after it."""
    times: list[float] = []

    def slow_twice(number: int) -> None:
        times.append(time.monotonic())
        if number in (5, 10):
            time.sleep(0.09)

    report = ControlLoop(Watched(ARM, slow_twice), Always(UP)).run(1.0)
    assert report.misses >= 2 and times[6] - times[5] > 0.035 and times[11] - times[10] > 0.035


def test_a_miss_is_counted_and_the_robot_holds() -> None:
    robot = Watched(ARM, lambda number: time.sleep(0.08) if number == 6 else None)
    report = ControlLoop(robot, Always(UP)).run(0.7)
    rises = np.array([command.action[2] for command in robot.commands[: report.ticks]])
    assert report.misses >= 1 and report.stopped is None
    assert abs(rises[6]) < 1e-9 and (np.abs(rises) < 1e-9).sum() == report.interventions["stale"] < report.ticks / 2
    kept_limits(robot)


def test_a_miss_is_counted_and_the_robot_slows_down() -> None:
    """To half the speed for ten ticks; no action is left out, each takes two of them."""
    robot = Watched(ARM, lambda number: time.sleep(0.08) if number == 6 else None)
    report = ControlLoop(robot, Always(UP), on_miss="slow").run(1.0)
    rises = np.array([command.action[2] for command in robot.commands[: report.ticks]])
    assert report.misses >= 1 and report.stopped is None
    slow = np.abs(rises - 0.002) < 1e-4
    assert slow.any() and (report.misses > 1 or (slow[6] and slow.sum() == 10))  # more on a machine that is busy
    kept_limits(robot)


def test_a_planner_that_is_too_slow_leaves_the_robot_at_rest_not_lost() -> None:
    robot = Watched(ARM)
    report = ControlLoop(robot, Counting(seconds=0.6)).run(1.6)
    assert report.stopped is None and report.starved > 0 and report.interventions["stale"] >= report.starved
    assert any(np.array_equal(a.joints, b.joints) for a, b in zip(robot.commands, robot.commands[1:], strict=False))
    assert report.chunks >= 1
    kept_limits(robot)


def test_two_arms_in_the_loop_keep_apart() -> None:
    together = np.array([0.0, -0.02, 0.0, 0.08, 0.0, 0.02, 0.0, 0.08])
    robot = Watched(TWO_ARMS)
    begun = robot.observe()["state"]
    report = ControlLoop(robot, Always(together)).run(1.6)
    assert report.stopped is None and report.interventions["self-collision"] > 0
    joints, _ = posture_of(TWO_ARMS, robot.observe()["state"])
    assert np.abs(joints - posture_of(TWO_ARMS, begun)[0]).max() > 0.2
    assert 0.0 < least_gaps(TWO_ARMS, joints[None])[0][0] < 0.1
    kept_limits(robot)


# A robot that stops answering


@pytest.mark.parametrize("halt_works", [True, False])
def test_a_robot_that_stops_answering_is_halted(tmp_path: Path, halt_works: bool) -> None:
    """A driver that blocks for ever, as one does whose cable was pulled."""
    for_ever = threading.Event()
    robot = Watched(load("tabletop-arm"), lambda number: for_ever.wait() if number == 8 else None)
    if not halt_works:
        robot.halt = for_ever.wait  # type: ignore[method-assign, assignment]
    loop = ControlLoop(robot, Always(UP), log=tmp_path / "log.jsonl")
    begun = time.monotonic()
    report = loop.run(60.0)
    assert time.monotonic() - begun < 5.0
    assert report.stopped is not None and "\n" not in report.stopped
    assert report.stopped.startswith("tabletop-arm stopped answering: nothing for ")
    assert report.stopped.endswith("; halted" if halt_works else "does not answer to halt either: cut its power")
    assert robot.halts == halt_works and len(robot.commands) <= 8
    assert report.stopped in (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    for_ever.set()


def test_a_driver_that_fails_ends_the_run() -> None:
    def unplugged(number: int) -> None:
        if number == 4:
            raise OSError("No such device: /dev/ttyUSB0\nsecond line")

    robot = Watched(ARM, unplugged)
    report = ControlLoop(robot, Always(UP)).run(10.0)
    assert report.stopped == "tabletop-arm its driver failed: OSError: No such device: /dev/ttyUSB0; halted"
    assert robot.halts == 1


def test_a_robot_that_reports_nonsense_is_stopped() -> None:
    class Broken(Watched):
        def observe(self) -> dict[str, Any]:
            observation = super().observe()
            return observation | ({"state": observation["state"] * np.nan} if len(self.commands) == 5 else {})

    robot = Broken(ARM)
    report = ControlLoop(robot, Always(UP)).run(10.0)
    assert report.stopped is not None and "not 10 finite numbers" in report.stopped and len(robot.commands) < 12
    kept_limits(robot)


def test_one_that_never_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "FIRST_ANSWER", 0.1)
    robot, for_ever = Watched(ARM), threading.Event()
    robot.observe = for_ever.wait  # type: ignore[method-assign, assignment]
    with pytest.raises(KibanError, match="tabletop-arm: gives no observation within 0.1 s"):
        ControlLoop(robot, Always(UP)).run(1.0)
    for_ever.set()


# A planner that fails, and the emergency stop


def test_a_planner_that_fails_ends_the_run_at_rest() -> None:
    class Failing(Counting):
        def chunk(self, observation: dict[str, Any], last: Array | None, delay: int) -> Array:
            if last is not None:
                raise RuntimeError("out of memory")
            return super().chunk(observation, last, delay)

    robot = Watched(ARM)
    report = ControlLoop(robot, Failing()).run(10.0)
    assert report.stopped == "the planner failed: RuntimeError: out of memory"
    assert np.array_equal(robot.commands[-1].joints, robot.commands[-2].joints)
    with pytest.raises(KibanError, match=r"a chunk has shape \(8, 3\), not \(actions, 4\)"):
        ControlLoop(Watched(ARM), Always(UP[:3])).run(1.0)


def test_the_emergency_stop_brakes_and_latches(tmp_path: Path) -> None:
    robot = Watched(TWO_ARMS)
    loop = ControlLoop(robot, Always(np.array([0.0, 0.0, 0.01, 0.08] * 2)), log=tmp_path / "log.jsonl")
    timer = threading.Timer(0.6, loop.stop, ["the button"])
    timer.start()
    report = loop.run(10.0)
    assert report.stopped == "the button" and report.ticks < 40
    assert np.array_equal(robot.commands[-1].joints, robot.commands[-2].joints)
    still = len(robot.commands)
    assert loop.run(10.0).stopped == "the button"  # it latches
    assert all(np.allclose(c.joints, robot.commands[still].joints) for c in robot.commands[still:])
    loop.safety.release("nobody is near")
    assert loop.run(0.2).stopped is None
    reasons = [json.loads(row)["reasons"][0] for row in (tmp_path / "log.jsonl").read_text("utf-8").splitlines()]
    assert "stop: the button" in reasons and reasons[-1] != "stop: the button"
    assert reasons.count("release: nobody is near") == 1
    kept_limits(robot, still)


# With a policy


@pytest.mark.parametrize("jacobian", [True, False])
def test_a_policy_drives_the_robot(arm_policy: Path, language: Path, tmp_path: Path, jacobian: bool) -> None:
    """One that has learned nothing asks for far too much; it is carried out within limits, on time."""
    robot = Watched(ARM)
    agent = Agent(*load_policy(arm_policy), Reader.load(language), ARM)
    agent.reset(robot.instruction, seed=3)
    planner = RealTimeAgent(agent, execute=4, jacobian=jacobian)
    report = ControlLoop(robot, planner, log=tmp_path / "log.jsonl").run(1.2)
    assert report.stopped is None and report.chunks >= 3
    assert report.interventions["action"] > 0 and report.inference[1] < 1.0
    kept_limits(robot)


def test_a_guided_chunk_goes_on_from_the_last(arm_policy: Path, language: Path) -> None:
    robot = Watched(ARM)
    agent = Agent(*load_policy(arm_policy), Reader.load(language), ARM)
    observation = robot.observe()
    agent.reset(robot.instruction, seed=3)
    last = RealTimeAgent(agent, execute=4).chunk(observation, None, 0)
    off = {}
    for guided in (True, False):
        agent.reset(robot.instruction, seed=4)
        new = RealTimeAgent(agent, execute=4, guided=guided, jacobian=False).chunk(observation, last[4:], 2)
        off[guided] = np.abs(new[:2] - last[4:6]).mean()
    assert off[True] < 0.5 * off[False]


def test_posture_of_every_robot() -> None:
    joints, grippers = posture_of(load("meta-world"), [0.0, 0.6, 0.2, 0.9])
    assert joints.tolist() == [0.0, 0.6, 0.2] and grippers.tolist() == [0.0]
    state = np.arange(20.0)
    joints, grippers = posture_of(TWO_ARMS, state)
    assert joints.tolist() == [*range(6), *range(10, 16)] and grippers.tolist() == [0.08, 0.08]
    with pytest.raises(KibanError, match="not 20 finite numbers"):
        posture_of(TWO_ARMS, state[:3])
