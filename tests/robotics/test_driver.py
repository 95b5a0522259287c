"""The robot's side: a real server, the real filter, and what happens when one of them goes away."""

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kiban.artifacts.errors import KibanError
from kiban.robotics.client import Answer, PolicyClient, RemotePlanner, SilenceError
from kiban.robotics.control import ControlLoop
from kiban.robotics.driver import GIVE_UP, Driver, state_of, warm_up
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.kinematics import Kinematics
from kiban.robotics.safety import Command, SafetyFilter
from tests.robotics.serving import SENTENCE, look, serving

REACH = 8  # actions of a chunk


class Sideways:
    """A policy that moves the tool sideways, or asks for what no robot can do."""

    def __init__(self, embodiment: Embodiment, distance: float) -> None:
        self.embodiment, self.distance, self.asked = embodiment, distance, 0

    def reset(self, instruction: str, seed: int) -> None:
        self.asked += 1

    def chunk(self, observation: dict[str, Any]) -> NDArray[Any]:
        return np.tile([0.0, self.distance, 0.0, 0.04], (REACH, 1))


class Clock:
    """Time that passes when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def arm(embodiment: Embodiment) -> Embodiment:
    warm_up(embodiment)
    return embodiment


def filtered(arm: Embodiment, clock: Any = time.monotonic) -> SafetyFilter:
    safety = SafetyFilter(arm, clock=clock)
    safety.reset(posture(arm), [0.08])
    return safety


def posture(arm: Embodiment) -> NDArray[np.float64]:
    return np.array(arm.arms[0].posture)


def seen(arm: Embodiment, joints: Any) -> dict[str, Any]:
    return {**look(arm), "state": state_of(arm, np.asarray(joints), np.array([0.08]))}


def check(commands: list[Command], arm: Embodiment) -> None:
    lower, upper = np.array([joint.position for joint in arm.joints]).T
    fastest = np.array([joint.velocity for joint in arm.joints]) * arm.control_period
    for before, after in itertools.pairwise(commands):
        assert (after.joints >= lower).all() and (after.joints <= upper).all()
        assert (np.abs(after.joints - before.joints) <= fastest * (1 + 1e-9)).all()


@pytest.mark.parametrize("distance", [0.004, 1e6, np.inf])
def test_a_robot_is_driven_over_the_network_and_never_past_a_limit(distance: float, arm: Embodiment) -> None:
    policy, commands = Sideways(arm, min(distance, 1e6)), []
    if np.isinf(distance):  # the server refuses to send that; the filter is asked with it in its own tests
        policy.chunk = lambda observation: np.full((REACH, 4), np.inf)  # type: ignore[method-assign]
    with serving(policy) as address, PolicyClient(address, arm) as client:
        driver = Driver(lambda seen, last, delay: client.infer(seen, SENTENCE, 200), filtered(arm), execute=4)
        joints = posture(arm)
        for _ in range(24):
            began = time.monotonic()
            commands.append(driver.step(seen(arm, joints), joints))
            joints = commands[-1].joints
            time.sleep(max(0.0, arm.control_period - (time.monotonic() - began)))
        driver.close()
    check(commands, arm)
    tool = Kinematics(arm.arms[0]).tool
    moved = tool(commands[-1].joints)[1] - tool(posture(arm))[1]
    if np.isinf(distance):
        assert moved == 0.0
    else:
        assert moved > 0.03 and policy.asked >= 4
        assert not driver.safety.stopped


def test_when_the_server_goes_away_it_brakes_at_once_and_then_stops_for_good(arm: Embodiment) -> None:
    clock, said = Clock(), []
    safety = filtered(arm, clock)
    alive = True

    def ask(observation: Any, last: Any, delay: int) -> Answer:
        if not alive:
            raise SilenceError("gone")
        return Answer(np.tile([0.0, 0.01, 0.0, 0.08], (REACH, 1)), 1.0, 1.0)

    driver = Driver(ask, safety, execute=4, say=said.append, clock=clock)

    def period() -> Command:
        clock.now += arm.control_period
        command = driver.step(seen(arm, posture(arm)))
        if driver._asking is not None:
            while not driver._asking.done():
                time.sleep(0.001)
        return command

    commands = [period() for _ in range(20)]
    assert np.abs(commands[-1].joints - commands[-2].joints).max() > 1e-3 and not commands[-1].reasons
    alive = False
    silent = [period() for _ in range(REACH + 6)]
    assert silent[REACH].reasons == ("stale",) and safety.stopped is None
    assert (silent[-1].joints == silent[-2].joints).all()  # it stands
    check([*commands, *silent], arm)
    for _ in range(round(GIVE_UP / arm.control_period)):
        last = period()
    assert safety.stopped == "no actions for 1 s" and last.reasons == ("stopped",)
    assert said[0] == "gone" and "the robot is stopped" in said[-1]
    alive = True
    for _ in range(10):
        assert period().reasons == ("stopped",)  # the server is back, and that alone starts nothing
    with pytest.raises(KibanError, match="say why it is safe"):
        driver.restart(last.joints, last.grippers, " ")
    driver.restart(last.joints, last.grippers, "the network is mended")
    again = [period() for _ in range(10)]
    assert np.abs(again[-1].joints - last.joints).max() > 1e-3
    driver.close()


def test_a_late_plan_begins_with_what_is_due_now(arm: Embodiment) -> None:
    """The actions that the last plan carried out meanwhile are not carried out again."""
    clock, plans = Clock(), itertools.count()
    told: list[tuple[Any, int]] = []

    def ask(observation: Any, last: Any, delay: int) -> Answer:
        told.append((last, delay))
        actions = np.zeros((REACH, 4))
        actions[:, 1], actions[:, 3] = 1e-4 * (np.arange(REACH) + 10 * next(plans)), 0.08
        return Answer(actions, 1.0, 1.0)

    driver = Driver(ask, filtered(arm, clock), execute=4, clock=clock)
    given = []
    for _ in range(14):
        clock.now += arm.control_period
        command = driver.step(seen(arm, posture(arm)))
        given.append(round(command.action[1] / 1e-4))
        while driver._asking is not None and not driver._asking.done():
            time.sleep(0.001)
    assert given[:4] == [0, 0, 1, 2] and given[4] == 3, given
    assert all(value % 10 for value in given[2:]), given  # of a second plan the first action is behind already
    assert told[0][0] is None and all(len(last) >= delay >= 1 for last, delay in told[1:])
    driver.close()


def test_a_server_that_comes_back_is_found_again(arm: Embodiment) -> None:
    policy = Sideways(arm, 0.001)
    with serving(policy) as address:
        client = PolicyClient(address, arm)
        assert client.infer(look(arm), SENTENCE).actions.shape == (REACH, 4)
    with pytest.raises(SilenceError):
        client.infer(look(arm), SENTENCE)
    with pytest.raises(SilenceError, match="there is no policy server"):
        client.infer(look(arm), SENTENCE)
    with serving(policy, port=int(address.split(":")[1])):
        assert client.infer(look(arm), SENTENCE).actions.shape == (REACH, 4)
        client.close()


def test_silent_sensors_are_not_asked_about_and_a_joint_that_does_not_follow_stops_it(arm: Embodiment) -> None:
    policy = Sideways(arm, 0.01)
    with serving(policy) as address, PolicyClient(address, arm) as client:
        driver = Driver(lambda seen, last, delay: client.infer(seen, SENTENCE, 200), filtered(arm), execute=4)
        for _ in range(3):
            driver.step(None, posture(arm))
            time.sleep(0.02)
        assert policy.asked == 0
        stuck = posture(arm)
        stuck[0] += 1.0
        assert driver.step(None, stuck).reasons == ("stopped",)
        assert "does not follow its commands" in (driver.safety.stopped or "")
        driver.close()


def test_the_state_is_in_the_embodiments_order(arm: Embodiment, tmp_path: Path) -> None:
    state = state_of(arm, posture(arm), np.array([0.05]))
    assert state.shape == (len(arm.state_names),) and state[6] == np.float32(0.05)
    np.testing.assert_allclose(state[7:], Kinematics(arm.arms[0]).tool(posture(arm)), rtol=1e-6)


class Simulated:
    """An arm whose joints are where they were sent, for the real-time loop."""

    def __init__(self, arm: Embodiment) -> None:
        self.embodiment, self.joints, self.halted = arm, posture(arm), False

    def observe(self) -> dict[str, Any]:
        return {**seen(self.embodiment, self.joints), "efforts": np.zeros(len(self.joints))}

    def send(self, command: Command) -> None:
        self.joints = command.joints

    def halt(self) -> None:
        self.halted = True


def test_the_real_time_loop_plans_over_the_network(arm: Embodiment) -> None:
    policy = Sideways(arm, 0.003)
    told: list[tuple[int, int]] = []

    def continued(observation: dict[str, Any], last: NDArray[Any], delay: int) -> NDArray[Any]:
        told.append((len(last), delay))
        return policy.chunk(observation)

    with serving(policy, continued=continued) as address, PolicyClient(address, arm) as client:
        robot = Simulated(arm)
        report = ControlLoop(robot, RemotePlanner(client, SENTENCE, execute=4, deadline_ms=500)).run(1.2)
        assert report.stopped is None and report.chunks >= 3, report
        assert len(told) >= 3 and all(left >= 1 and delay >= 1 for left, delay in told)
        moved = Kinematics(arm.arms[0]).tool(robot.joints)[1] - Kinematics(arm.arms[0]).tool(posture(arm))[1]
        assert moved > 0.02
    with pytest.raises(KibanError, match="there is no policy server"):
        ControlLoop(robot, RemotePlanner(client, SENTENCE, execute=4, deadline_ms=100)).run(1.0)
