"""Demonstrations: the scripted expert, disturbed on purpose, or a policy, recorded as a LeRobot dataset.

What is executed is the expert's action plus a wandering disturbance, what is recorded is the action alone (Laskey et
al. 2017, "DART"): so the policy sees how to come back from where the expert by itself would never go.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.robotics import embodiment as embodiments
from kiban.robotics import recording
from kiban.robotics.dataset_terms import Terms
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.features import ACTION, IMAGES, STATE, Feature, encode, image, video
from kiban.robotics.layout import V3
from kiban.robotics.parallel import spread
from kiban.robotics.seeds import DEMONSTRATIONS, episode_seed
from kiban.robotics.suites import SUITES, Environment, Suite

PERSISTENCE = 0.8  # of the disturbance from one control period to the next
MOST_ATTEMPTS = 100  # at one episode


@dataclass(frozen=True)
class Actor:
    """Who demonstrates: the expert, or the policy in the folder `policy` with its language model in `language`."""

    policy: str | None = None
    language: str | None = None

    @property
    def name(self) -> str:
        return "expert" if self.policy is None else "policy"


@dataclass(frozen=True)
class Request:
    """One episode to record into `path`."""

    embodiment: str
    task: str
    number: int
    seed: int
    path: Path
    actor: Actor = Actor()
    videos: bool = False


@dataclass(frozen=True)
class Summary:
    episodes: int
    frames: int
    attempts: int


def features_of(embodiment: Embodiment, videos: bool = False) -> dict[str, Feature]:
    """What is recorded of `embodiment`: pictures as PNG, or as videos."""
    return {
        STATE: Feature("float32", (len(embodiment.state_names),), embodiment.state_names),
        ACTION: Feature("float32", (len(embodiment.action.names),), embodiment.action.names),
        **{
            IMAGES + c.name: video(c.height, c.width, embodiment.fps) if videos else image(c.height, c.width)
            for c in embodiment.cameras
        },
    }


def collect(
    embodiment: Embodiment,
    tasks: tuple[str, ...],
    episodes: int,
    seed: int,
    folder: Path,
    work: Path,
    progress: Progress,
    actor: Actor = Actor(),
    videos: bool = False,
    layout: str = V3,
    terms: Terms | None = None,
) -> Summary:
    """Records `episodes` successful episodes of each task and writes them as a dataset into `folder`.

    Each episode lies in `work` as soon as it is recorded; a killed run goes on from there. The tasks take
    turns, so that any first part of the dataset holds all of them.

    Raises:
        KibanError: if something else was being recorded in `work`, or an episode never succeeds.
    """
    made = {"by": actor.name, "embodiment": embodiment.name, "seed": seed}
    recording.begin(work, made | {"videos": videos, "policy": actor.policy})
    requests = [
        Request(embodiment.name, task, number, seed, work / f"{task}-{number:06d}.zip", actor, videos)
        for number in range(episodes)
        for task in tasks
    ]
    missing = [request for request in requests if not request.path.exists()]
    with progress.task("demonstrations", len(requests), "episodes") as bar:
        bar.update(len(requests) - len(missing))
        for _ in spread(record, missing):
            bar.advance()
    frames = attempts = 0
    paths = [request.path for request in requests]
    features, given = features_of(embodiment, videos), terms or Terms()
    terms = given.model_copy(update={"made": made | given.made})
    for episode, notes in recording.finish(paths, folder, features, embodiment.fps, embodiment.name, layout, terms):
        frames += len(episode)
        attempts += notes["attempts"]
    return Summary(len(requests), frames, attempts)


def suite_with(embodiment: str) -> Suite:
    """The suite whose tasks that robot does. Raises KibanError if there is none."""
    for suite in SUITES.values():
        if suite.embodiment == embodiment:
            return suite
    able = ", ".join(suite.embodiment for suite in SUITES.values())
    raise KibanError(f"embodiment '{embodiment}': there are no tasks for it in simulation; there are for {able}")


@lru_cache(maxsize=4)  # each holds a simulator
def _environment(embodiment: str, task: str) -> Environment:
    return suite_with(embodiment).environment(task)


def record(request: Request) -> None:
    """Records one successful episode; tries again, with other objects, where it fails.

    Raises:
        KibanError: if none of MOST_ATTEMPTS succeeds.
    """
    env, disturbing = _environment(request.embodiment, request.task), suite_with(request.embodiment).disturbance
    for attempt in range(MOST_ATTEMPTS):
        seed = episode_seed(DEMONSTRATIONS, request.seed, request.task, request.number, attempt)
        frames = _attempt(env, disturbing, seed, request.actor)
        if frames is not None:
            episode = encode(features_of(env.embodiment, request.videos), frames, env.instruction)
            recording.save(request.path, episode, {"attempts": attempt + 1})
            return
    raise KibanError(
        f"{request.task}, episode {request.number}: the {request.actor.name} failed {MOST_ATTEMPTS} times in a row; "
        "it has to be able to do what it demonstrates"
    )


def _attempt(env: Environment, disturbing: float, seed: int, actor: Actor) -> dict[str, np.ndarray] | None:
    """The frames of an episode, or None if it was no success."""
    embodiment = env.embodiment
    rng = np.random.default_rng([seed, 1])  # not the stream that places the objects
    observation, _ = env.reset(seed=seed)
    act = _acting(env, seed, actor)
    frames: dict[str, list[np.ndarray]] = {name: [] for name in features_of(embodiment)}
    lower, upper = np.array(embodiment.action.lower), np.array(embodiment.action.upper)
    disturbance = np.zeros_like(lower)
    done = success = False
    while not done:
        action = act(observation)
        frames[STATE].append(observation["state"])
        frames[ACTION].append(action.astype(np.float32))
        for camera in embodiment.cameras:
            frames[IMAGES + camera.name].append(observation[camera.name])
        if actor.policy is None:
            disturbance[:3] = PERSISTENCE * disturbance[:3] + rng.normal(0.0, disturbing, 3)
        observation, _, success, truncated, _ = env.step(np.clip(action + disturbance, lower, upper))
        done = success or truncated
    return {name: np.stack(values) for name, values in frames.items()} if success else None


def _acting(env: Environment, seed: int, actor: Actor) -> Callable[[dict[str, Any]], np.ndarray]:
    """From an observation to an action."""
    if actor.policy is None:
        return lambda observation: env.expert_action()
    agent = _agent(actor.policy, str(actor.language))
    agent.reset(env.instruction, seed)
    return lambda observation: np.clip(agent.act(observation), env.embodiment.action.lower, env.embodiment.action.upper)


@cache
def _agent(policy: str, language: str) -> Any:
    import torch

    from kiban.robotics.agent import Agent, load_policy, reader_of

    torch.set_num_threads(1)  # episodes are recorded side by side, one a core
    network, description = load_policy(Path(policy))
    return Agent(
        network, description, reader_of(Path(policy), Path(language)), embodiments.load(description.embodiment)
    )
