"""Demonstrations: the scripted expert, disturbed on purpose, recorded as a LeRobot dataset.

What is executed is the expert's action plus a wandering disturbance, what is recorded is the action alone (Laskey et
al. 2017, "DART"): so the policy sees how to come back from where the expert by itself would never go.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kiban.artifacts.files import write_atomic
from kiban.artifacts.progress import Progress
from kiban.robotics import embodiment as embodiments
from kiban.robotics import expert
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.environment import TabletopEnv
from kiban.robotics.lerobot_v3 import DatasetWriter, Feature, encode, image
from kiban.robotics.parallel import spread
from kiban.robotics.seeds import DEMONSTRATIONS, episode_seed

STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."

DISTURBANCE = 0.0015  # m: what each control period adds to the disturbance
PERSISTENCE = 0.8  # of the disturbance from one control period to the next


@dataclass(frozen=True)
class Request:
    """One episode to record into `path`."""

    embodiment: str
    task: str
    number: int
    seed: int
    path: Path


@dataclass(frozen=True)
class Summary:
    episodes: int
    frames: int
    attempts: int


def features_of(embodiment: Embodiment) -> dict[str, Feature]:
    """What is recorded of `embodiment`."""
    return {
        STATE: Feature("float32", (len(embodiment.state_names),), embodiment.state_names),
        ACTION: Feature("float32", (len(embodiment.action.names),), embodiment.action.names),
        **{IMAGES + camera.name: image(camera.height, camera.width) for camera in embodiment.cameras},
    }


def collect(
    embodiment: Embodiment,
    tasks: tuple[str, ...],
    episodes: int,
    seed: int,
    folder: Path,
    work: Path,
    progress: Progress,
) -> Summary:
    """Records `episodes` successful episodes of each task and writes them as a dataset into `folder`.

    Each episode lies in `work` as soon as it is recorded; a killed run goes on from there. The tasks take
    turns, so that any first part of the dataset holds all of them.
    """
    work.mkdir(parents=True, exist_ok=True)
    requests = [
        Request(embodiment.name, task, number, seed, work / f"{task}-{number:06d}.parquet")
        for number in range(episodes)
        for task in tasks
    ]
    missing = [request for request in requests if not request.path.exists()]
    with progress.task("demonstrations", len(requests), "episodes") as bar:
        bar.update(len(requests) - len(missing))
        for _ in spread(record, missing):
            bar.advance()
    writer = DatasetWriter(folder, features_of(embodiment), embodiment.fps, embodiment.name)
    frames = attempts = 0
    for request in requests:
        table = pq.read_table(request.path)
        writer.add(table)
        frames += len(table)
        attempts += int(table.schema.metadata[b"attempts"])
    writer.finish()
    return Summary(len(requests), frames, attempts)


@cache
def _environment(embodiment: str, task: str) -> TabletopEnv:
    return TabletopEnv(embodiments.load(embodiment), task)


def record(request: Request) -> None:
    """Records one successful episode; tries again, with other objects, where the expert fails."""
    env = _environment(request.embodiment, request.task)
    attempt = 0
    while True:
        seed = episode_seed(DEMONSTRATIONS, request.seed, request.task, request.number, attempt)
        attempt += 1
        episode = _attempt(env, seed)
        if episode is not None:
            break
    table = encode(features_of(env.embodiment), episode, env.instruction)
    metadata = table.schema.metadata | {b"attempts": str(attempt).encode()}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="none")
    write_atomic(request.path, sink.getvalue().to_pybytes())


def _attempt(env: TabletopEnv, seed: int) -> dict[str, np.ndarray] | None:
    """The frames of an episode, or None if it was no success."""
    embodiment = env.embodiment
    rng = np.random.default_rng([seed, 1])  # not the stream that places the objects
    observation, _ = env.reset(seed=seed)
    frames: dict[str, list[np.ndarray]] = {name: [] for name in features_of(embodiment)}
    lower, upper = np.array(embodiment.action.lower), np.array(embodiment.action.upper)
    disturbance = np.zeros_like(lower)
    done = success = False
    while not done:
        action = expert.act(env)
        frames[STATE].append(observation["state"])
        frames[ACTION].append(action.astype(np.float32))
        for camera in embodiment.cameras:
            frames[IMAGES + camera.name].append(observation[camera.name])
        disturbance[:3] = PERSISTENCE * disturbance[:3] + rng.normal(0.0, DISTURBANCE, 3)
        observation, _, success, truncated, _ = env.step(np.clip(action + disturbance, lower, upper))
        done = success or truncated
    return {name: np.stack(values) for name, values in frames.items()} if success else None
