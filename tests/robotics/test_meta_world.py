"""Meta-World: the same bits for the same seed, nothing but the four numbers, Japanese that asks for one task alone."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kiban.artifacts.errors import KibanError
from kiban.robotics import meta_world
from kiban.robotics.embodiment import Embodiment, load
from kiban.robotics.instructions import check
from kiban.robotics.meta_world import MetaWorldEnv, sentences, tasks
from kiban.robotics.perturbations import parse
from kiban.robotics.seeds import DEMONSTRATIONS, ROLLOUTS, episode_seed

REGISTERS = {"plain", "polite", "honorific"}


@pytest.fixture(scope="module")
def sawyer() -> Embodiment:
    """Meta-World's arm with a smaller picture."""
    pytest.importorskip("metaworld", reason="pip install 'kiban[metaworld]'")
    robot = load("meta-world")
    return robot.model_copy(update={"cameras": (robot.cameras[0].model_copy(update={"width": 48, "height": 48}),)})


def shown(env: MetaWorldEnv, seed: int, steps: int) -> tuple[list[bytes], bool]:
    """Everything that the expert's episode shows, byte for byte, and whether it succeeded."""
    observation, _ = env.reset(seed=seed)
    found, success = [env.instruction.encode()], False
    for _ in range(steps):
        found += [observation["corner2"].tobytes(), observation["state"].tobytes()]
        observation, reward, success, truncated, info = env.step(env.expert_action())
        assert reward == float(success) == float(info["success"])
        if success or truncated:
            break
    return found, success


# push: an object on the table; door-open: reset moves a body of the model; assembly: a mesh is carried.
@pytest.mark.parametrize("task", ["push-v3", "door-open-v3", "assembly-v3"])
def test_the_same_seed_shows_the_same_bits(sawyer: Embodiment, task: str) -> None:
    used, fresh = MetaWorldEnv(sawyer, task), MetaWorldEnv(sawyer, task)
    shown(used, seed=11, steps=30)
    again, success = shown(used, seed=7, steps=150)
    assert (again, success) == shown(fresh, seed=7, steps=150)
    assert success
    assert again[1] != shown(used, seed=8, steps=1)[0][1]


def test_observations_tell_no_place_of_object_or_goal(sawyer: Embodiment) -> None:
    env = MetaWorldEnv(sawyer, "pick-place-v3")
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert sawyer.state_names == ("hand.x", "hand.y", "hand.z", "gripper.opening")
    hand = [*env.data.body("hand").xpos, observation["state"][3]]
    assert np.allclose(observation["state"], hand, atol=1e-6) and 0 <= observation["state"][3] <= 1
    other, _ = env.reset(seed=1)
    assert env.layout != info["layout"]
    assert np.allclose(other["state"], observation["state"], atol=1e-6)  # the hand begins where it always does


def test_the_picture_shows_the_goal_where_it_is(sawyer: Embodiment) -> None:
    sharp = sawyer.model_copy(update={"cameras": (sawyer.cameras[0].model_copy(update={"width": 240, "height": 240}),)})
    env = MetaWorldEnv(sharp, "reach-v3")
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        camera = env.camera_for_film(240)
        right, up, backward = (np.array(env.layout[3:]) - sharp.cameras[0].position) @ camera.axes
        scale = 120 / np.tan(np.radians(30)) / -backward
        red, green, blue = (int(c) for c in observation["corner2"][int(120 - scale * up), int(120 + scale * right)])
        assert red > 80 and red > 4 * max(green, blue, 1)


@pytest.mark.slow
def test_the_renderers_agree(sawyer: Embodiment, tmp_path: Path) -> None:
    """Rays and GL show the same scene from the same place; textures and gloss apart."""
    ours, _ = MetaWorldEnv(sawyer, "coffee-push-v3").reset(seed=3)
    program = """
import sys, numpy
from kiban.robotics.embodiment import load
from kiban.robotics.meta_world import MetaWorldEnv
robot = load("meta-world")
robot = robot.model_copy(update={"cameras": (robot.cameras[0].model_copy(update={"width": 48, "height": 48}),)})
numpy.save(sys.argv[1], MetaWorldEnv(robot, "coffee-push-v3", renderer="gl").reset(seed=3)[0]["corner2"])
"""
    file = tmp_path / "gl.npy"
    made = subprocess.run(
        [sys.executable, "-c", program, file], env=os.environ | {"MUJOCO_GL": "egl"}, capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no GL here: {made.stderr.strip().splitlines()[-1]}")
    difference = np.abs(ours["corner2"].astype(int) - np.load(file).astype(int)).mean(axis=2)
    assert np.median(difference) < 12 and np.mean(difference > 60) < 0.06


def test_gl_that_cannot_be_had_is_one_line(sawyer: Embodiment, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MUJOCO_GL", "DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(KibanError, match="GL needs a display, or MUJOCO_GL=egl or osmesa"):
        MetaWorldEnv(sawyer, "push-v3", renderer="gl")
    with pytest.raises(KibanError, match="GL draws neither light nor distractors; use rays"):
        MetaWorldEnv(sawyer, "push-v3", perturbation=parse(["light=50%"])[0], renderer="gl")


def test_an_action_out_of_bounds_is_bounded(sawyer: Embodiment) -> None:
    env = MetaWorldEnv(sawyer, "reach-v3")
    env.reset(seed=0)
    before = env.data.mocap_pos[0].copy()
    *_, info = env.step(np.array([5.0, 0.0, 0.0, -1.0]))
    assert info["interventions"] and env.data.mocap_pos[0][0] - before[0] <= 0.01 + 1e-9
    *_, info = env.step(np.array([np.nan, 0.0, 0.0, 0.0]))
    assert info["interventions"]["refused"] == 1
    with pytest.raises(KibanError, match="task 'dance': Meta-World has none of that name"):
        MetaWorldEnv(sawyer, "dance")


def test_perturbations_change_what_they_say(sawyer: Embodiment) -> None:
    plain, _ = MetaWorldEnv(sawyer, "push-v3").reset(seed=2)
    for text in ("camera=5cm", "light=50%", "distractors=3"):
        changed = MetaWorldEnv(sawyer, "push-v3", perturbation=parse([text])[0])
        observation, _ = changed.reset(seed=2)
        assert not np.array_equal(observation["corner2"], plain["corner2"]), text
        assert np.array_equal(observation["state"], plain["state"])
        assert observation["instruction"] == plain["instruction"]
    light = MetaWorldEnv(sawyer, "push-v3", perturbation=parse(["light=50%"])[0]).reset(seed=2)[0]["corner2"]
    lit = plain["corner2"] > 20
    assert np.allclose(light[lit], plain["corner2"][lit] / 2, atol=25)
    world = MetaWorldEnv(sawyer, "push-v3")
    heavy = MetaWorldEnv(sawyer, "push-v3", perturbation=parse(["mass=300%,friction=50%"])[0])
    puck, hand = (world.model.body(name).id for name in ("obj", "hand"))
    assert heavy.model.body_mass[puck] == pytest.approx(3 * world.model.body_mass[puck])
    assert heavy.model.body_mass[hand] == world.model.body_mass[hand]
    assert np.allclose(heavy.model.geom_friction[:, 0], world.model.geom_friction[:, 0] / 2)
    worded, _ = MetaWorldEnv(sawyer, "push-v3", perturbation=parse(["wording"])[0]).reset(seed=2)
    assert worded["instruction"] in {text for _, text in sentences("push-v3", "held_out")}
    assert np.array_equal(worded["corner2"], plain["corner2"])


@pytest.mark.slow
def test_no_goal_is_demonstrated_and_measured(sawyer: Embodiment) -> None:
    """Of every task, the places of object and goal of demonstrations and of measured episodes, two programmes' each."""
    for task in tasks():
        env = MetaWorldEnv(sawyer, task)
        drawn = {
            purpose: {
                env.reset(seed=episode_seed(purpose, seed, task, n))[1]["layout"] for seed in (0, 1) for n in range(3)
            }
            for purpose in (DEMONSTRATIONS, ROLLOUTS)
        }
        assert len(drawn[DEMONSTRATIONS]) == len(drawn[ROLLOUTS]) == 6, task
        assert not drawn[DEMONSTRATIONS] & drawn[ROLLOUTS], task


@pytest.mark.slow
def test_every_expert_can_do_its_task(sawyer: Embodiment) -> None:
    """One of three seeds at least; how often each succeeds is measured by `kiban robot evaluate --policy expert`."""
    for task in tasks():
        env = MetaWorldEnv(sawyer, task)
        assert any(shown(env, seed, steps=500)[1] for seed in (5, 6, 7)), task


# Instructions


def test_the_groups_are_those_of_the_published_evaluations() -> None:
    assert Counter(tasks().values()) == {"easy": 28, "medium": 11, "hard": 6, "very_hard": 5}


def test_every_task_is_asked_for_in_every_register() -> None:
    for task in tasks():
        for which, least in (("train", 3), ("held_out", 2)):
            found = sentences(task, which)
            assert len(found) == len(set(found))
            counts = Counter(register for register, _ in found)
            assert set(counts) == REGISTERS and min(counts.values()) >= least
            for _, sentence in found:
                assert check(sentence, task) == sentence


def test_no_held_out_sentence_is_a_training_sentence_and_none_means_two_tasks() -> None:
    meaning: dict[str, tuple[str, str]] = {}
    for task in tasks():
        for which in ("train", "held_out"):
            for _, sentence in sentences(task, which):
                assert meaning.setdefault(sentence, (task, which)) == (task, which)
    phrases = meta_world._language()["tasks"]
    train = {phrase for entry in phrases.values() for phrase in entry["train"]}
    assert not train & {phrase for entry in phrases.values() for phrase in entry["held_out"]}
    endings = meta_world._language()["endings"]
    assert not set(sum(endings["train"].values(), [])) & set(sum(endings["held_out"].values(), []))
