"""Recording by hand, in real time: an operator asks, the robot moves at its control period, good episodes are kept."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kiban.artifacts.errors import KibanError
from kiban.robotics import recording
from kiban.robotics.demonstrations import features_of, suite_with
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.features import ACTION, IMAGES, RECORDED_AT, STATE, Feature, encode
from kiban.robotics.seeds import DEMONSTRATIONS, episode_seed
from kiban.robotics.suites import Environment
from kiban.robotics.teleoperation import Asked, Operator, Word

LONGEST_S = 120.0  # of an episode


@dataclass(frozen=True)
class Moment:
    """What an operator is shown: `picture` of the first camera, and how it stands."""

    task: str
    instruction: str
    number: int
    seconds: float
    picture: np.ndarray
    interventions: dict[str, int]


Show = Callable[[Moment], None]


def live_features(embodiment: Embodiment, videos: bool) -> dict[str, Feature]:
    return features_of(embodiment, videos) | {RECORDED_AT: Feature("float64", (1,))}


def record_live(
    embodiment: Embodiment,
    wanted: list[tuple[str, int, Path]],
    seed: int,
    videos: bool,
    operator: Operator,
    show: Show,
) -> bool:
    """Has the operator record each (task, number, path) of `wanted` that is missing; gives whether all are there.

    An episode ends when the task is done, or when the operator says so. What is recorded is what was asked, within the
    action's bounds; what moves is what the safety filter lets through.

    Raises:
        KibanError: if the operator's device is gone. The episode under way is lost, no other.
    """
    with operator:
        for task, number, path in wanted:
            attempt = 0
            while not path.exists():
                env = suite_with(embodiment.name).environment(task, embodiment=embodiment)
                drawn = episode_seed(DEMONSTRATIONS, seed, task, number, attempt)
                frames, word = _episode(env, drawn, task, number, operator, show)
                if word == "quit":
                    return False
                if word == "keep":
                    encoded = encode(live_features(embodiment, videos), frames, env.instruction)
                    recording.save(path, encoded, {"attempts": attempt + 1})
                attempt += 1
    return True


def _episode(
    env: Environment, seed: int, task: str, number: int, operator: Operator, show: Show
) -> tuple[dict[str, np.ndarray], Word]:
    """Its frames, and what is to become of it."""
    embodiment, period = env.embodiment, env.embodiment.control_period
    observation, _ = env.reset(seed=seed)
    operator.begin()
    frames: dict[str, list[Any]] = {name: [] for name in live_features(embodiment, videos=False)}
    info: dict[str, Any] = {"interventions": {}}
    start, wall, done = time.monotonic(), time.time(), False
    while True:
        now = time.monotonic() - start
        asked = operator.ask()
        word: Word | None = "keep" if done else asked.word
        if now > LONGEST_S:
            word = "discard"
        if word == "keep" and not frames[ACTION]:
            word = "discard"
        if word is not None:
            return {name: np.stack(values) for name, values in frames.items()} if frames[ACTION] else {}, word
        action = action_of(asked, embodiment)
        frames[STATE].append(observation["state"])
        frames[ACTION].append(action.astype(np.float32))
        frames[RECORDED_AT].append(np.array([wall + now]))
        for camera in embodiment.cameras:
            frames[IMAGES + camera.name].append(observation[camera.name])
        shown = observation[embodiment.cameras[0].name]
        show(Moment(task, env.instruction, number, now, shown, info["interventions"]))
        observation, _, done, _, info = env.step(action)
        # The next period that has not begun yet: a late one is dropped, not made up for by haste.
        late = time.monotonic() - start
        time.sleep(max(0.0, (np.floor(late / period) + 1) * period - late))


def action_of(asked: Asked, embodiment: Embodiment) -> np.ndarray:
    """Shares of the fastest action as an action of the embodiment: a displacement, and the gripper's opening or effort.

    Raises:
        KibanError: if the robot's actions are something else.
    """
    if len(embodiment.action.names) != 4:
        raise KibanError(
            f"{embodiment.name}: has {len(embodiment.action.names)} numbers to an action; by hand one arm is moved"
        )
    lower, upper = np.array(embodiment.action.lower), np.array(embodiment.action.upper)
    way = np.clip(np.array(asked.way), -1.0, 1.0)
    closes = upper[3] if embodiment.gripper.control == "effort" else lower[3]
    opens = lower[3] if embodiment.gripper.control == "effort" else upper[3]
    return np.array([*np.where(way > 0, way * upper[:3], -way * lower[:3]), closes if asked.closed else opens])
