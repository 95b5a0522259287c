"""Whatever comes in, what goes out keeps every limit; what is stopped stays stopped; what is done is written down."""

import json
import time
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kiban.artifacts.errors import KibanError
from kiban.robotics.embodiment import ActionSpace, Embodiment, KeepOut, load
from kiban.robotics.environment import TabletopEnv
from kiban.robotics.kinematics import Kinematics
from kiban.robotics.safety import Command, SafetyFilter
from kiban.robotics.scene import TIMESTEP, build, controls
from tests.robotics.hostile import check, hostile, least_gaps, poses

Array = NDArray[np.float64]

ARM, TWO_ARMS, HAND = load("tabletop-arm"), load("bimanual-arm"), load("meta-world")
JOINTS = TWO_ARMS.model_copy(
    update={
        "name": "by-joints",
        "arms": TWO_ARMS.arms[:1],
        "action": ActionSpace(
            kind="joint",
            names=(*(joint.name for joint in TWO_ARMS.arms[0].joints), "gripper.opening"),
            units=("rad",) * 6 + ("m",),
            lower=(-0.1,) * 6 + (0.0,),
            upper=(0.1,) * 6 + (0.08,),
        ),
        "cameras": TWO_ARMS.cameras[:1],
    }
)
ROBOTS = {robot.name: robot for robot in (ARM, TWO_ARMS, HAND, JOINTS)}


def start_of(robot: Embodiment) -> tuple[Array, Array]:
    """A posture with the tools in their workspaces, and the grippers."""
    if robot.action.kind == "mocap":
        return np.array([0.0, 0.6, 0.2]), np.zeros(1)
    goals = [np.array([0.3, 0.8 * arm.base[1], 0.2]) for arm in robot.arms]
    joints = [Kinematics(arm).solve(goal, np.array(arm.posture)) for arm, goal in zip(robot.arms, goals, strict=True)]
    return np.concatenate(joints), np.array([arm.gripper.opening[1] for arm in robot.arms])


def started(robot: Embodiment, **options: Any) -> SafetyFilter:
    filtered = SafetyFilter(robot, **options)
    filtered.reset(*start_of(robot))
    return filtered


def checked(robot: Embodiment, commands: list[Command]) -> None:
    joints, grippers = start_of(robot)
    at, of_grippers = [joints] + [c.joints for c in commands], [grippers] + [c.grippers for c in commands]
    check(robot, np.stack(at), np.stack(of_grippers))


# No action gets past a limit.

number = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True) | st.sampled_from(
    [0.02, -0.02, 1.0, -1.0]
)
hostile_action = st.lists(number, max_size=9) | st.lists(number, min_size=4, max_size=4)
repeated = st.tuples(hostile_action, st.integers(1, 25))


@settings(max_examples=30, deadline=None)
@given(st.lists(repeated, min_size=1, max_size=12), st.sampled_from(sorted(ROBOTS)))
def test_no_action_gets_past_a_limit(bursts: list[tuple[list[float], int]], name: str) -> None:
    filtered = started(ROBOTS[name])
    checked(ROBOTS[name], [filtered.command(action) for action, times in bursts for _ in range(times)])


def attack(robot: Embodiment, count: int, seed: int) -> SafetyFilter:
    """Hostile actions, some of them old, with a stop and its release now and then."""
    now = [0.0]
    filtered = started(robot, clock=lambda: now[0])
    rng = np.random.default_rng(seed)
    commands, ages = [], rng.choice([0.0, 0.0, 0.0, 0.1, 1.0, -1.0, np.nan], size=count)
    for index, action in enumerate(hostile(robot, count, seed)):
        now[0] += robot.control_period
        if index % 500 == 490:
            filtered.stop("hit")
        if index % 500 == 499:
            filtered.release("next round")
        commands.append(filtered.command(action, now[0] - ages[index // 100 % count]))
    checked(robot, commands)
    return filtered


@pytest.mark.parametrize("name", sorted(ROBOTS))
def test_twenty_thousand_hostile_actions(name: str) -> None:
    filtered = attack(ROBOTS[name], 5_000, seed=1)
    assert {"refused", "stale", "stopped", "action"} < set(filtered.interventions)
    limits = {
        "tabletop-arm": {"workspace", "velocity"},
        "bimanual-arm": {"workspace", "velocity", "acceleration"},
        "by-joints": {"workspace", "acceleration"},
        "meta-world": {"position"},
    }
    assert limits[name] <= set(filtered.interventions)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"),
    [("tabletop-arm", 350_000), ("bimanual-arm", 150_000), ("by-joints", 200_000), ("meta-world", 300_000)],
)
def test_a_million_hostile_actions(name: str, count: int) -> None:
    attack(ROBOTS[name], count, seed=2)


@pytest.mark.parametrize("name", ["tabletop-arm", "bimanual-arm", "by-joints"])
def test_no_long_drift_gets_past_a_limit(name: str) -> None:
    """Full speed in one direction, then another: along the walls and into every corner of the workspace."""
    robot = ROBOTS[name]
    rng = np.random.default_rng(3)
    directions = rng.choice([-1.0, 0.0, 1.0], (12, len(robot.action.upper))) * robot.action.upper
    filtered = started(robot)
    checked(robot, [filtered.command(action) for action in np.repeat(directions, 40, axis=0)])
    assert filtered.interventions["workspace"] > 0


def test_the_check_finds_what_it_looks_for() -> None:
    """Against the simulator's geometry, and on commands that are wrong on purpose."""
    joints, grippers = start_of(TWO_ARMS)
    rng = np.random.default_rng(0)
    model = build(TWO_ARMS, [])
    data = mujoco.MjData(model)
    at = joints + rng.normal(0, 0.3, (20, 12))
    for row, tools in zip(at, np.stack(poses(TWO_ARMS, at)[0], axis=1), strict=True):
        data.qpos[:] = controls(TWO_ARMS, row, grippers)
        mujoco.mj_kinematics(model, data)
        assert np.allclose([data.site(f"{arm.name}.tool").xpos for arm in TWO_ARMS.arms], tools, atol=1e-12)
    steady, open_ = np.repeat(joints[None], 5, axis=0), np.repeat(grippers[None], 5, axis=0)
    check(TWO_ARMS, steady, open_)
    fast = steady.copy()
    fast[2:, 0] += 0.04  # more than 15 rad/s^2 from rest
    low = steady.copy()
    low[:, :6] = Kinematics(TWO_ARMS.arms[0]).solve(np.array([0.3, 0.2, -0.05]), joints[:6])
    for wrong in (fast, low, np.where(np.arange(5)[:, None] == 4, np.nan, steady)):
        with pytest.raises(AssertionError):
            check(TWO_ARMS, wrong, open_)


# Collisions


def drive(robot: Embodiment, action: Array, steps: int) -> tuple[Array, SafetyFilter, Array]:
    """The commands [N, J], the filter, and where the same actions lead without it."""
    filtered = started(robot)
    joints, _ = start_of(robot)
    commands = [filtered.command(action) for _ in range(steps)]
    checked(robot, commands)
    unsafe, first, place = [], 0, 0
    for arm in robot.arms:
        kinematics, mine = Kinematics(arm), joints[first : first + 6]
        first += 6
        way = []
        for _ in range(steps):
            mine = kinematics.solve(kinematics.tool(mine) + action[place : place + 3], mine)
            way.append(mine)
        place += 4
        unsafe.append(np.stack(way))
    return np.stack([c.joints for c in commands]), filtered, np.concatenate(unsafe, axis=1)


def test_two_arms_do_not_hit_each_other() -> None:
    towards = np.array([0.0, -0.02, 0.0, 0.08, 0.0, 0.02, 0.0, 0.08])
    given, filtered, unsafe = drive(TWO_ARMS, towards, 40)
    assert least_gaps(TWO_ARMS, unsafe)[0].min() < 0
    assert filtered.interventions["self-collision"] > 0
    near = least_gaps(TWO_ARMS, given)[0]
    assert 0.01 <= near.min() < 0.03  # near, and no nearer
    assert np.abs(given[-1] - given[-2]).max() < 1e-12


def test_a_keep_out_volume_is_kept_out_of() -> None:
    post = KeepOut(name="post", lower=(0.36, -0.27, 0.0), upper=(0.42, 0.27, 0.30))
    robot = ARM.model_copy(update={"keep_out": (*ARM.keep_out, post)})
    given, filtered, unsafe = drive(robot, np.array([0.02, 0.0, 0.0, 0.08]), 40)
    assert least_gaps(robot, unsafe)[1].min() < 0
    assert filtered.interventions["keep-out"] > 0 and 0.01 - 1e-9 <= least_gaps(robot, given)[1].min() < 0.03


def test_one_arm_at_a_wall_does_not_hold_the_other_up() -> None:
    down = np.array([0.0, 0.0, -0.02, 0.08, 0.0, 0.0, 0.0, 0.08])
    filtered = started(TWO_ARMS)
    for _ in range(40):
        filtered.command(down)
    before = filtered.command(down).joints
    for _ in range(10):
        after = filtered.command(np.array([0.0, 0.0, -0.02, 0.08, 0.01, 0.0, 0.0, 0.08])).joints
    right = Kinematics(TWO_ARMS.arms[1])
    assert right.tool(after[6:])[0] - right.tool(before[6:])[0] > 0.09


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ((0, 2.7), "number 0 of the posture, 2.7, is out of its range"),
        ((1, -1.0), "the tool of left is outside its workspace"),
        ((6, 0.9), "left is within its clearance of right|right is within its clearance of left"),
    ],
)
def test_an_unsafe_start_is_refused(change: tuple[int, float], why: str) -> None:
    joints, grippers = start_of(TWO_ARMS)
    if change[0] == 6:
        left, right = (Kinematics(arm) for arm in TWO_ARMS.arms)
        joints[:6] = left.solve(np.array([0.4, 0.0, 0.15]), joints[:6])
        joints[6:] = right.solve(np.array([0.4, 0.0, 0.15]), joints[6:])
    else:
        joints[change[0]] = change[1]
    with pytest.raises(KibanError, match=f"bimanual-arm: not safe to start: ({why})"):
        SafetyFilter(TWO_ARMS).reset(joints, grippers)
    with pytest.raises(KibanError, match="are not the 14 numbers"):
        SafetyFilter(TWO_ARMS).reset(joints[:3], grippers)


# What is allowed passes.


def test_what_is_safe_passes_as_it_is() -> None:
    action = np.array([0.5, -0.3, 0.2, -1.0])
    filtered = started(HAND)
    for _ in range(5):
        command = filtered.command(action)
        assert command.reasons == () and np.array_equal(command.action, action)
    assert np.allclose(command.joints - start_of(HAND)[0], 5 * 0.01 * action[:3])
    assert command.opening == -1.0


def test_each_reason_is_counted() -> None:
    filtered = started(ARM)
    assert filtered.command(np.array([0.0, 0.0, -0.01, 0.04])).reasons == ()
    assert not filtered.interventions
    filtered.command(np.array([np.nan, 0.0, 0.0, 0.0]))
    filtered.command(np.zeros(3))
    assert filtered.interventions == {"refused": 2}
    assert filtered.command(np.array([0.0, 0.5, 0.0, 0.04])).reasons == ("action",)
    assert filtered.interventions == {"refused": 2, "action": 1}
    for _ in range(20):
        filtered.command(np.array([0.0, 0.0, -0.02, 0.04]))
    assert filtered.interventions["workspace"] > 5


def test_a_gripper_comes_to_rest_at_its_opening() -> None:
    filtered = started(TWO_ARMS)
    openings = [filtered.command([0.0, 0.0, 0.0, 0.03, 0.0, 0.0, 0.0, 0.08]).opening for _ in range(12)]
    assert min(openings) == openings[-1] == pytest.approx(0.03, abs=1e-12)


def test_the_filter_is_quick() -> None:
    filtered = started(TWO_ARMS)
    actions = list(hostile(TWO_ARMS, 1000, seed=4))
    begun = time.process_time()
    for action in actions:
        filtered.command(action)
    assert (time.process_time() - begun) / len(actions) < 1e-3


# The ladder of stops


def at_speed(robot: Embodiment, **options: Any) -> SafetyFilter:
    filtered = started(robot, **options)
    for _ in range(6):
        filtered.command(np.array(robot.action.lower) * 0.5)
    return filtered


@pytest.mark.parametrize("name", sorted(ROBOTS))
def test_a_stop_brakes_holds_and_latches(name: str) -> None:
    robot = ROBOTS[name]
    filtered = at_speed(robot)
    filtered.stop("button")
    commands = [filtered.command(np.array(robot.action.upper)) for _ in range(30)]
    assert all(command.reasons == ("stopped",) for command in commands)
    assert np.array_equal(commands[-1].joints, commands[10].joints)  # at rest well within a second
    filtered.reset(*start_of(robot))
    assert filtered.stopped == "button"  # a new episode does not release it
    with pytest.raises(KibanError, match="say why"):
        filtered.release("  ")
    filtered.release("the hand is out of the cell")
    assert filtered.stopped is None and filtered.command(np.array(robot.action.upper) * 0.1).reasons != ("stopped",)


def test_an_old_command_brings_it_to_a_stop_and_a_fresh_one_on_again() -> None:
    now = 100.0
    filtered = at_speed(TWO_ARMS, clock=lambda: now)
    action = np.array(TWO_ARMS.action.lower) * 0.5
    assert filtered.command(action, made_at=now - 0.19).reasons == ()
    commands = [filtered.command(action, made_at=now - 0.21) for _ in range(10)]
    assert {command.reasons for command in commands} == {("stale",)}
    assert np.array_equal(commands[-1].joints, commands[-2].joints)
    assert filtered.command(None).reasons == ("stale",)
    assert filtered.command(action, made_at=now + 5.0).reasons == ("stale",)  # from a clock that is wrong
    assert not np.array_equal(filtered.command(action, made_at=now).joints, commands[-1].joints)


def test_a_refused_action_brakes_at_once() -> None:
    filtered = started(ARM)
    last = filtered.command(np.array([0.01, 0.01, -0.01, 0.0]))
    assert np.array_equal(filtered.command(np.array([np.inf, 0.0, 0.0, 0.0])).joints, last.joints)


@pytest.mark.parametrize(
    ("joints", "efforts", "why"),
    [
        (0.0, [0, 0, 61.0, 0, 0, 0], "elbow_pitch bears 61 N m, its limit is 60"),
        (0.0, [0, 0, np.nan, 0, 0, 0], "no proper efforts"),
        (0.7, None, "base_yaw does not follow its commands"),
        (np.nan, None, "no proper joint positions"),
    ],
)
def test_what_the_robot_reports_can_stop_it(joints: float, efforts: list[float] | None, why: str) -> None:
    filtered = started(ARM)
    at = filtered.command(np.array([0.0, 0.0, 0.0, 0.08])).joints
    filtered.measured(at, [59.0] * 3 + [9.0] * 3)
    assert filtered.stopped is None
    filtered.measured(at + [joints, 0, 0, 0, 0, 0], efforts)
    assert filtered.stopped is not None and why in filtered.stopped


# The log


def test_every_intervention_is_a_line(tmp_path: Path) -> None:
    filtered = started(ARM, log=tmp_path / "interventions.jsonl")
    filtered.command([0.01, 0.0, 0.0, 0.08])
    filtered.command([0.5, np.nan, np.inf, 0.08])
    filtered.command([0.5, 0.0, 0.0, 0.08])
    filtered.command("右へ")
    filtered.command([10**400, 0.0, 0.0, 0.0])
    filtered.stop("button")
    filtered.command([0.0, 0.0, 0.0, 0.08])
    filtered.release("checked")

    def no_constant(name: str) -> None:
        raise AssertionError(name)  # strict JSON has no NaN

    lines = filtered.log.read_text(encoding="utf-8").splitlines()  # type: ignore[union-attr]
    rows = [json.loads(line, parse_constant=no_constant) for line in lines]
    assert [row["reasons"] for row in rows] == [
        ["refused"],
        ["action"],
        ["refused"],
        ["refused"],
        ["stop: button"],
        ["stopped"],
        ["release: checked"],
    ]
    assert rows[0]["asked"] == [0.5, "nan", "inf", 0.08] and rows[2]["asked"] == "右へ"
    assert rows[1]["given"] == pytest.approx([0.02, 0.0, 0.0, 0.08], abs=2e-4)
    assert rows[0]["given"][:3] == pytest.approx([0.0, 0.0, 0.0], abs=1e-12)
    assert all(row["time"].endswith("+00:00") for row in rows)


def test_a_robot_that_cannot_be_logged_is_stopped(tmp_path: Path) -> None:
    filtered = started(ARM, log=tmp_path / "no folder" / "interventions.jsonl")
    filtered.command([0.5, 0.0, 0.0, 0.08])
    assert filtered.stopped is not None and "interventions cannot be logged" in filtered.stopped


# In the simulator


def test_the_environment_has_no_way_around_it(embodiment: Embodiment) -> None:
    env = TabletopEnv(embodiment, "reach")
    env.reset(seed=0)
    before = env.tool_position
    for _ in range(10):
        info = env.step(np.full(4, np.nan))[4]
    assert info["interventions"] == {"refused": 10}
    assert np.linalg.norm(env.tool_position - before) < 2e-3


@pytest.mark.parametrize("name", ["tabletop-arm", "bimanual-arm"])
def test_motors_stay_within_their_efforts(name: str) -> None:
    robot = ROBOTS[name]
    model = build(robot, [])
    data = mujoco.MjData(model)
    joints, grippers = start_of(robot)
    data.qpos[:] = data.ctrl[:] = controls(robot, joints, grippers)
    limits = np.array([[*(j.effort for j in arm.joints), arm.gripper.effort, arm.gripper.effort] for arm in robot.arms])
    filtered, greatest = started(robot), np.zeros(model.nu)
    for action in hostile(robot, 300, seed=5):
        command = filtered.command(action)
        data.ctrl[:] = controls(robot, command.joints, command.grippers)
        for _ in range(round(robot.control_period / TIMESTEP)):
            mujoco.mj_step(model, data)
            greatest = np.maximum(greatest, np.abs(data.actuator_force))
    assert (greatest <= limits.ravel() * (1 + 1e-9)).all() and greatest.max() > 1.0
