"""Rollouts: a policy carries out instructions it has not read, with objects where it has not seen them."""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kiban.artifacts.files import write_json
from kiban.artifacts.intervals import bootstrap_mean, wilson
from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import Progress
from kiban.robotics import embodiment as embodiments
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.parallel import spread
from kiban.robotics.perturbations import NONE, Perturbation
from kiban.robotics.seeds import ROLLOUTS, episode_seed
from kiban.robotics.suites import Environment, Observation, Renderer, suite
from kiban.robotics.tasks import Wordings

FILM_PIXELS, STRIP_FRAMES, STRIP_PIXELS = 240, 6, 180
FILM_FRAMES = 200  # of an animation at most; longer episodes are shown at greater steps

EXPERT = "expert"  # instead of a policy's folder: the scripted expert, which is told every position

Film = list[NDArray[np.uint8]]


@dataclass(frozen=True)
class Request:
    """One episode. `policy` and `language` are folders, or EXPERT and nothing. The same request gives the same record.

    `number` of `evaluation_seed` is the episode: those that share both see the same objects in the same places.
    `register` binds the register that is otherwise drawn; `instruction` replaces the sentence, `embodiment` (a name or
    a file) the suite's own.
    """

    policy: str
    language: str
    task: str
    wordings: Wordings
    number: int
    seed: int
    instruction: str | None = None
    suite: str = "tabletop"
    register: str | None = None
    perturbation: Perturbation = NONE
    renderer: Renderer = "rays"
    evaluation_seed: int = 0
    embodiment: str | None = None

    @property
    def condition(self) -> str:
        """How it is asked and what is perturbed: `held_out`, `held_out honorific`, `train camera=2cm`."""
        disturbed = "" if self.perturbation == NONE else self.perturbation.name
        return " ".join(part for part in (self.wordings, self.register, disturbed) if part)


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
    condition: str = ""
    evaluation_seed: int = 0


def evaluate(
    requests: list[Request],
    progress: Progress,
    processes: int | None = None,
    known: dict[Request, Record] | None = None,
    keep: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """The records of `requests`, in their order, whatever the number of processes.

    `known` ones are not played again; `keep` gets each new one as soon as it is there.
    """
    records = {request: known[request] for request in requests if known and request in known}
    successes = sum(record.success for record in records.values())
    with progress.task("rollouts", len(requests), "episodes") as bar:
        bar.update(len(records))
        for request, record in spread(play, [r for r in requests if r not in records], processes):
            keep(record)
            records[request] = record
            successes += record.success
            bar.note(f"{successes} of {len(records)} succeeded")
            bar.advance()
    return [records[request] for request in requests]


def requests_for(
    policy: Path | str,
    language: Path | str,
    tasks: Iterable[str],
    wordings: Iterable[Wordings],
    episodes: int,
    seed: int,
    instruction: str | None = None,
    embodiment: str | None = None,
) -> list[Request]:
    """Episodes on the tabletop with each of `wordings` on the same seeds, so that they can be compared in pairs.

    `instruction` replaces the sentence; what counts as success stays what the task and its objects say.
    """
    return [
        Request(
            str(policy),
            str(language),
            task,
            which,
            number,
            episode_seed(ROLLOUTS, seed, task, number),
            instruction,
            evaluation_seed=seed,
            embodiment=embodiment,
        )
        for task in tasks
        for number in range(episodes)
        for which in wordings
    ]


def play(request: Request) -> Record:
    return _play(request, film=None)


def _play(request: Request, film: Film | None) -> Record:
    """Plays an episode; appends a larger picture of each moment to `film`."""
    act, begin, env = _actor(request)
    given = {"instruction": request.instruction, "register": request.register}
    options = {name: value for name, value in given.items() if value is not None}
    observation, info = env.reset(seed=request.seed, options=options)
    begin(env.instruction, request.seed)
    camera = env.camera_for_film(FILM_PIXELS) if film is not None else None
    under_way = deque([_idle(env.embodiment)] * request.perturbation.latency)
    register, steps, done, success = info["register"], 0, False, False
    while not done:
        if film is not None and camera is not None:
            film.append(camera.image(env.data))
        under_way.append(act(observation))
        observation, _, success, truncated, info = env.step(under_way.popleft())
        steps += 1
        done = success or truncated
    if film is not None and camera is not None:
        film.append(camera.image(env.data))
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
        request.condition,
        request.evaluation_seed,
    )


def _actor(
    request: Request,
) -> tuple[Callable[[Observation], NDArray[np.float64]], Callable[[str, int], None], Environment]:
    """What acts on an observation, what an episode begins with (an instruction, a seed), and its environment."""
    robot = request.embodiment or suite(request.suite).embodiment
    env = _environment(request.suite, request.task, request.wordings, request.perturbation, request.renderer, robot)
    if request.policy == EXPERT:
        return lambda observation: env.expert_action(), lambda instruction, seed: None, env
    agent = _agent(request.policy, request.language, robot)
    return agent.act, agent.reset, env


@lru_cache(maxsize=4)  # each holds a simulator
def _environment(
    name: str, task: str, wordings: Wordings, perturbation: Perturbation, renderer: Renderer, robot: str
) -> Environment:
    return suite(name).environment(task, wordings, perturbation, renderer, embodiments.load(robot))


@cache
def _agent(policy_folder: str, language_folder: str, robot: str) -> Any:
    import torch

    from kiban.robotics.agent import Agent, load_policy, reader_of

    torch.set_num_threads(1)  # episodes run side by side, one a core
    policy, description = load_policy(Path(policy_folder))
    reader = reader_of(Path(policy_folder), Path(language_folder))
    return Agent(policy, description, reader, embodiments.load(robot))


def _idle(embodiment: Embodiment) -> NDArray[np.float64]:
    """The action that moves nothing and leaves grippers open, as they are when an episode begins."""
    action, idle = embodiment.action, np.zeros(len(embodiment.action.names))
    for index, name in enumerate(action.names):
        if name.endswith("gripper.opening"):
            idle[index] = action.upper[index]
        elif name.endswith("gripper.effort"):
            idle[index] = action.lower[index]
    return idle


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
    held_out = [pair for pair in zip(requests, records, strict=True) if pair[1].wordings == "held_out"]
    films = film_tasks(held_out, folder / "films")
    write_json(folder / "episodes.json", {"episodes": [asdict(record) for record in records], "films": films})


def film_tasks(played: list[tuple[Request, Record]], folder: Path) -> dict[str, Any]:
    """Of every task, plays the first success again, or else the first episode, for a film strip and an animation."""
    films: dict[str, Any] = {}
    for task in dict.fromkeys(record.task for _, record in played):
        of_task = [pair for pair in played if pair[1].task == task]
        request, _ = next((pair for pair in of_task if pair[1].success), of_task[0])
        frames: Film = []
        again = _play(request, frames)
        films[task] = {"instruction": again.instruction, "success": again.success, "number": again.number}
        _write_film(frames, task, folder)
    return films


def _write_film(frames: Film, task: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [Image.fromarray(frame) for frame in frames]
    strip = Image.new("RGB", (STRIP_FRAMES * STRIP_PIXELS, STRIP_PIXELS))
    for place, index in enumerate(np.linspace(0, len(pictures) - 1, STRIP_FRAMES).round().astype(int)):
        strip.paste(pictures[index].resize((STRIP_PIXELS, STRIP_PIXELS)), (place * STRIP_PIXELS, 0))
    strip.save(folder / f"{task}.png", optimize=True)
    every = -(-len(pictures) // FILM_FRAMES)
    coloured = [picture.quantize(64) for picture in [*pictures[:-1:every], pictures[-1]]]
    durations = [100] * (len(coloured) - 1) + [1000]  # ms: half the real speed, then a rest
    coloured[0].save(folder / f"{task}.gif", save_all=True, append_images=coloured[1:], duration=durations, loop=0)
