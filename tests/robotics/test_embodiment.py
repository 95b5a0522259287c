"""Robots as data: what a file says is what is built, checked and moved; a wrong file says where it is wrong."""

import re
from pathlib import Path

import mujoco
import numpy as np
import pytest

from kiban.artifacts.errors import KibanError
from kiban.robotics.camera import RayCamera
from kiban.robotics.demonstrations import features_of
from kiban.robotics.embodiment import FOLDER, Embodiment, available, load
from kiban.robotics.kinematics import Kinematics
from kiban.robotics.scene import TIMESTEP, Thing, build, controls

THINGS = [Thing("red", "cube", 0.35, -0.1, 0.4), Thing("blue", "cylinder", 0.40, 0.05, 0.0)]


@pytest.mark.parametrize("name", ["tabletop-arm", "bimanual-arm", "meta-world"])
def test_every_robot_says_what_is_recorded_of_it(name: str) -> None:
    robot = load(name)
    assert name in available() and robot.name == name
    features = features_of(robot)
    assert features["observation.state"].names == robot.state_names
    assert features["action"].names == robot.action.names
    assert len(set(robot.state_names)) == len(robot.state_names)
    assert all(features[f"observation.images.{c.name}"].shape == (c.height, c.width, 3) for c in robot.cameras)


def test_the_numbers_of_the_demo_robot_keep_their_names() -> None:
    """Policies and datasets go by them."""
    robot = load("tabletop-arm")
    assert robot.state_names == (
        *("base_yaw", "shoulder_pitch", "elbow_pitch", "forearm_roll", "wrist_pitch", "wrist_roll"),
        *("gripper.opening", "tool.x", "tool.y", "tool.z"),
    )
    assert robot.action.names == ("tool.dx", "tool.dy", "tool.dz", "gripper.opening")
    assert [camera.name for camera in robot.cameras] == ["front", "wrist"] and robot.fps == 20


def test_meta_world_sees_four_numbers_and_moves_a_centimetre() -> None:
    robot = load("meta-world")
    assert robot.state_names == ("hand.x", "hand.y", "hand.z", "gripper.opening")
    assert robot.fps == 80 and [camera.name for camera in robot.cameras] == ["corner2"]
    assert np.array(robot.action.upper) @ np.eye(4) * robot.action.scale == pytest.approx([0.01, 0.01, 0.01, 1.0])
    with pytest.raises(KibanError, match="has no joints to simulate"):
        build(robot, [])


@pytest.mark.parametrize("name", ["tabletop-arm", "bimanual-arm"])
def test_our_kinematics_are_the_simulators(name: str) -> None:
    robot = load(name)
    model = build(robot, THINGS)
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    lower, upper = np.array([joint.position for joint in robot.joints]).T
    for _ in range(20):
        joints = rng.uniform(lower, upper)
        placed = controls(robot, joints, np.zeros(len(robot.arms)))
        data.qpos[: len(placed)] = placed
        mujoco.mj_kinematics(model, data)
        first = 0
        for arm in robot.arms:
            mine = joints[first : first + len(arm.joints)]
            first += len(arm.joints)
            site = data.site(robot.prefix(arm) + "tool")
            kinematics = Kinematics(arm)
            assert np.allclose(kinematics.tool(mine), site.xpos, atol=1e-12)
            assert np.allclose(kinematics.frames(mine)[1][-1], site.xmat.reshape(3, 3), atol=1e-12)


def test_two_arms_move_apart_and_are_seen() -> None:
    robot = load("bimanual-arm")
    model = build(robot, THINGS)
    data = mujoco.MjData(model)
    start = np.concatenate([arm.posture for arm in robot.arms])
    data.qpos[: model.nu] = controls(robot, start, np.array([0.04, 0.04]))
    mujoco.mj_forward(model, data)
    front, left, right = (RayCamera(camera, model) for camera in robot.cameras)
    before = [camera.image(data) for camera in (front, left, right)]
    goals = [np.array([0.35, 0.15, 0.10]), np.array([0.30, -0.20, 0.06])]
    joints = [Kinematics(arm).solve(goal, np.array(arm.posture)) for arm, goal in zip(robot.arms, goals, strict=True)]
    data.ctrl[:] = controls(robot, np.concatenate(joints), np.array([0.08, 0.0]))
    mujoco.mj_step(model, data, round(1.5 / TIMESTEP))
    mujoco.mj_forward(model, data)
    for arm, goal in zip(robot.arms, goals, strict=True):
        assert np.linalg.norm(data.site(f"{arm.name}.tool").xpos - goal) < 5e-3
    assert data.joint("left.left_finger").qpos > 0.038 and data.joint("right.left_finger").qpos < 0.002
    for camera, seen in zip((front, left, right), before, strict=True):
        picture = camera.image(data)
        assert picture.shape == (camera.camera.height, camera.camera.width, 3)
        assert (picture != seen).any(axis=-1).mean() > 0.05
    for arm in robot.arms:  # the front camera has both tools in its picture
        column, row = front.pixel_of(data, data.site(f"{arm.name}.tool").xpos)
        assert 0 < column < 64 and 0 < row < 64


def test_a_robot_of_ones_own_is_a_file(tmp_path: Path) -> None:
    text = (FOLDER / "tabletop_arm.toml").read_text(encoding="utf-8")
    mine = tmp_path / "mine.toml"
    mine.write_text(
        text.replace('name = "tabletop-arm"', 'name = "mine"').replace("[0.0, 0.0, 0.32]", "[0.0, 0.0, 0.4]")
    )
    robot = load(str(mine))
    longer, standard = Kinematics(robot.arms[0]), Kinematics(load("tabletop-arm").arms[0])
    posture = np.array(robot.arms[0].posture)
    assert robot.name == "mine" and longer.tool(posture)[2] > standard.tool(posture)[2] + 0.05
    assert build(robot, []).nu == 8


WRONG = {
    'name = "arm"\n': ("arms.0", 'name = "arm"\nyam = 1.0\n', "yam"),
    "position = [-2.6, 2.6]": ("joints.0.position", "position = [2.6, -2.6]", "not below"),
    "axis = [0.0, 0.0, 1.0]": ("joints.0.axis", "axis = [0.0, 0.0, 2.0]", "not of length 1"),
    "velocity = 3.0  ": ("joints.0.velocity", "velocity = nan  ", "finite number"),
    'link = "base"\nstart': ("arms.0", 'link = "bass"\nstart', "no link 'bass'; it has base, base_yaw"),
    'mount = "hand"': ("the robot", 'mount = "head"', "camera 'wrist': no mount 'head'; use world or hand"),
    'kind = "tool"': ("the robot", 'kind = "joint"', "4 numbers, the arms need 7"),
    "posture = [0.0, 0.2": ("arms.0", "posture = [0.0, 2.2", "puts shoulder_pitch at 2.2"),
    "stale_after = 0.2": ("stale_after", "", "Field required"),
}


@pytest.mark.parametrize("right", WRONG)
def test_a_wrong_file_says_where(tmp_path: Path, right: str) -> None:
    where, wrong, why = WRONG[right]
    text = (FOLDER / "tabletop_arm.toml").read_text(encoding="utf-8")
    assert right in text
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace(right, wrong, 1))
    with pytest.raises(KibanError) as caught:
        load(str(path))
    assert str(caught.value).startswith(str(path)) and where in str(caught.value) and why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_and_no_toml_is_said(tmp_path: Path) -> None:
    with pytest.raises(KibanError, match="there is no such robot; use one of bimanual-arm, meta-world, tabletop-arm"):
        load("android")
    with pytest.raises(KibanError, match="there is no such file"):
        load(str(tmp_path / "none.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(KibanError, match=re.escape(f"{broken}: is no TOML")):
        load(str(broken))


def test_an_embodiment_cannot_be_changed(embodiment: Embodiment) -> None:
    with pytest.raises(ValueError, match="frozen"):
        embodiment.control_period = 1.0  # type: ignore[misc]
