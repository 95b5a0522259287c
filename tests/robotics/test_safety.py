"""Whatever comes in, what goes out keeps every limit."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kiban.robotics.embodiment import Embodiment, load
from kiban.robotics.environment import TabletopEnv
from kiban.robotics.kinematics import Kinematics
from kiban.robotics.safety import SLACK, SafetyFilter

ARM = load("tabletop-arm")
KINEMATICS = Kinematics(ARM.arms[0])
START = KINEMATICS.solve(np.array([0.3, 0.0, 0.2]), np.array(ARM.arms[0].posture))

hostile = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.02, -0.02, 0.0, 0.08, 1e300, -1e300])
actions = st.lists(st.lists(hostile, min_size=4, max_size=4) | st.lists(hostile, max_size=6), min_size=1, max_size=30)


def check(stream: Iterable[list[float]] | NDArray[np.float64]) -> SafetyFilter:
    """Feeds the stream to a filter and checks each command that comes out."""
    filtered = SafetyFilter(ARM)
    filtered.reset(START, 0.08)
    lower, upper = np.array([joint.position for joint in ARM.joints]).T
    reach = np.array([joint.velocity for joint in ARM.joints]) * ARM.control_period
    joints, opening = START, 0.08
    for action in stream:
        command = filtered.command(np.array(action))
        assert np.isfinite(command.joints).all() and np.isfinite(command.opening)
        assert (command.joints >= lower).all() and (command.joints <= upper).all()
        assert (np.abs(command.joints - joints) <= reach * (1 + 1e-9)).all()
        tool = KINEMATICS.tool(command.joints)
        assert (tool >= np.array(ARM.workspace.lower) - SLACK).all()
        assert (tool <= np.array(ARM.workspace.upper) + SLACK).all()
        assert ARM.gripper.opening[0] <= command.opening <= ARM.gripper.opening[1]
        assert abs(command.opening - opening) <= ARM.gripper.velocity * ARM.control_period * (1 + 1e-9)
        joints, opening = command.joints, command.opening
    return filtered


@settings(max_examples=60, deadline=None)
@given(actions)
def test_no_action_gets_past_a_limit(stream: list[list[float]]) -> None:
    check(stream)


@pytest.mark.parametrize("seed", range(4))
def test_no_long_drift_gets_past_a_limit(seed: int) -> None:
    """Full speed in one direction, then another: along the walls and into every corner of the workspace."""
    rng = np.random.default_rng(seed)
    directions = rng.choice([-1.0, 0.0, 1.0], (12, 4)) * [0.02, 0.02, 0.02, 0.08]
    filtered = check(np.repeat(directions, 40, axis=0))
    assert filtered.interventions["workspace"] > 0


def test_each_reason_is_counted() -> None:
    filtered = SafetyFilter(ARM)
    filtered.reset(START, 0.08)
    filtered.command(np.array([0.0, 0.0, -0.01, 0.04]))
    assert not filtered.interventions
    filtered.command(np.array([np.nan, 0.0, 0.0, 0.0]))
    filtered.command(np.zeros(3))
    assert filtered.interventions == {"refused": 2}
    filtered.command(np.array([0.0, 0.5, 0.0, 0.04]))
    assert filtered.interventions == {"refused": 2, "action": 1}
    for _ in range(20):
        filtered.command(np.array([0.0, 0.0, -0.02, 0.04]))
    assert filtered.interventions["workspace"] > 5


def test_a_refused_action_holds_the_last_command() -> None:
    filtered = SafetyFilter(ARM)
    filtered.reset(START, 0.08)
    last = filtered.command(np.array([0.01, 0.01, -0.01, 0.0]))
    assert filtered.command(np.array([np.inf, 0.0, 0.0, 0.0])) == last


def test_the_environment_has_no_way_around_it(embodiment: Embodiment) -> None:
    env = TabletopEnv(embodiment, "reach")
    env.reset(seed=0)
    before = env.tool_position
    for _ in range(10):
        info = env.step(np.full(4, np.nan))[4]
    assert info["interventions"] == {"refused": 10}
    assert np.linalg.norm(env.tool_position - before) < 2e-3
