"""Rollouts: a policy carries out instructions it has not read, with objects where it has not seen them."""

from collections import Counter
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from kiban.artifacts.files import write_json
from kiban.artifacts.intervals import bootstrap_mean, wilson
from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import Progress
from kiban.robotics import embodiment as embodiments
from kiban.robotics.agent import Agent, load_policy, reader_of
from kiban.robotics.camera import RayCamera
from kiban.robotics.environment import TabletopEnv
from kiban.robotics.parallel import spread
from kiban.robotics.seeds import ROLLOUTS, episode_seed
from kiban.robotics.tasks import Wordings

FILM_PIXELS, STRIP_FRAMES, STRIP_PIXELS = 240, 6, 180


@dataclass(frozen=True)
class Request:
    """One episode: `policy` and `language` are folders. The same request gives the same record."""

    policy: str
    language: str
    task: str
    wordings: Wordings
    number: int
    seed: int
    instruction: str | None = None


@dataclass(frozen=True)
class Record:
    """What became of it. `interventions` of the safety filter, by reason."""

    task: str
    wordings: str
    number: int
    seed: int
    register: str
    instruction: str
    success: bool
    steps: int
    interventions: dict[str, int]


def evaluate(requests: list[Request], progress: Progress) -> list[Record]:
    """The records of `requests`, in their order."""
    records: dict[Request, Record] = {}
    successes = 0
    with progress.task("rollouts", len(requests), "episodes") as bar:
        for request, record in spread(play, requests):
            records[request] = record
            successes += record.success
            bar.note(f"{successes} of {len(records)} succeeded")
            bar.advance()
    return [records[request] for request in requests]


def requests_for(
    policy: Path,
    language: Path,
    tasks: tuple[str, ...],
    wordings: tuple[Wordings, ...],
    episodes: int,
    seed: int,
    instruction: str | None = None,
) -> list[Request]:
    """Episodes with each of `wordings` on the same seeds, so that the wordings can be compared in pairs.

    `instruction` replaces the sentence; what counts as success stays what the task and its objects say.
    """
    return [
        Request(
            str(policy), str(language), task, which, number, episode_seed(ROLLOUTS, seed, task, number), instruction
        )
        for task in tasks
        for number in range(episodes)
        for which in wordings
    ]


def play(request: Request) -> Record:
    return _play(request, film=None)


def _play(request: Request, film: list[NDArray[np.uint8]] | None) -> Record:
    """Plays an episode; appends a larger picture of each moment to `film`."""
    torch.set_num_threads(1)  # episodes run side by side, one a core
    agent = _agent(request.policy, request.language)
    env = TabletopEnv(agent.embodiment, request.task, request.wordings)
    options = None if request.instruction is None else {"instruction": request.instruction}
    observation, info = env.reset(seed=request.seed, options=options)
    agent.reset(env.instruction, request.seed)
    camera = RayCamera(_film_camera(agent), env.model)
    register, steps, done, success = info["register"], 0, False, False
    while not done:
        _shoot(camera, env.data, film)
        observation, _, success, truncated, info = env.step(agent.act(observation))
        steps += 1
        done = success or truncated
    _shoot(camera, env.data, film)
    return Record(
        request.task,
        request.wordings,
        request.number,
        request.seed,
        register,
        env.instruction,
        success,
        steps,
        info["interventions"],
    )


@cache
def _agent(policy_folder: str, language_folder: str) -> Agent:
    policy, description = load_policy(Path(policy_folder))
    embodiment = embodiments.load(description.embodiment)
    return Agent(policy, description, reader_of(Path(policy_folder), Path(language_folder)), embodiment)


def _film_camera(agent: Agent) -> embodiments.Camera:
    return agent.embodiment.cameras[0].model_copy(update={"width": FILM_PIXELS, "height": FILM_PIXELS})


def _shoot(camera: RayCamera, data: mujoco.MjData, film: list[NDArray[np.uint8]] | None) -> None:
    if film is not None:
        film.append(camera.image(data))


def rates(records: list[Record]) -> dict[str, Metric]:
    """Success rates with Wilson intervals, of each task and of all, and what held-out wordings cost, in pairs.

    The rates are of held-out wordings alone: no sentence of the demonstrations is among them.
    """
    held_out = [record for record in records if record.wordings == "held_out"]
    metrics = {
        f"rollout.{task}.success_rate": _rate([record for record in held_out if record.task == task])
        for task in dict.fromkeys(record.task for record in held_out)
    }
    metrics["rollout.success_rate"] = _rate(held_out)
    trained = {(r.task, r.number): r.success for r in records if r.wordings == "train"}
    gaps = [float(trained[r.task, r.number]) - float(r.success) for r in held_out]
    metrics["rollout.wording_gap"] = Metric(
        value=float(np.mean(gaps)), unit="success rate lost", interval=bootstrap_mean(gaps, seed=0), n=len(gaps)
    )
    interventions = sum((Counter(record.interventions) for record in held_out), Counter())
    metrics["rollout.interventions_per_episode"] = Metric(
        value=interventions.total() / len(held_out), unit="interventions/episode", n=len(held_out)
    )
    return metrics


def _rate(records: list[Record]) -> Metric:
    successes = sum(record.success for record in records)
    interval = wilson(successes, len(records))
    return Metric(value=successes / len(records), unit="success rate", interval=interval, n=len(records))


def write(records: list[Record], requests: list[Request], folder: Path) -> None:
    """episodes.json, and of every task a film strip and an animation of its first success, or first episode."""
    films: dict[str, Any] = {}
    for task in dict.fromkeys(record.task for record in records):
        of_task = [i for i, record in enumerate(records) if record.task == task and record.wordings == "held_out"]
        chosen = next((i for i in of_task if records[i].success), of_task[0])
        frames: list[NDArray[np.uint8]] = []
        again = _play(requests[chosen], frames)
        films[task] = {"instruction": again.instruction, "success": again.success, "number": again.number}
        _write_film(frames, task, folder / "films")
    write_json(folder / "episodes.json", {"episodes": [asdict(record) for record in records], "films": films})


def _write_film(frames: list[NDArray[np.uint8]], task: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    pictures = [Image.fromarray(frame) for frame in frames]
    strip = Image.new("RGB", (STRIP_FRAMES * STRIP_PIXELS, STRIP_PIXELS))
    for place, index in enumerate(np.linspace(0, len(pictures) - 1, STRIP_FRAMES).round().astype(int)):
        strip.paste(pictures[index].resize((STRIP_PIXELS, STRIP_PIXELS)), (place * STRIP_PIXELS, 0))
    strip.save(folder / f"{task}.png", optimize=True)
    coloured = [picture.quantize(64) for picture in pictures]
    durations = [100] * (len(coloured) - 1) + [1000]  # ms: half the real speed, then a rest
    coloured[0].save(folder / f"{task}.gif", save_all=True, append_images=coloured[1:], duration=durations, loop=0)
