"""Evaluation of a policy on a suite: which episodes, their records on disk, and the figures made of them.

An episode is played under conditions: wordings (training or held-out, drawn or of one register) and perturbations. All
conditions share the seeds, so every comparison is of pairs.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_json
from kiban.artifacts.intervals import bootstrap_mean, wilson
from kiban.artifacts.progress import Progress
from kiban.robotics import embodiment as embodiments
from kiban.robotics import rollout
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.perturbations import NONE, Perturbation
from kiban.robotics.rollout import Record, Request
from kiban.robotics.seeds import ROLLOUTS, episode_seed
from kiban.robotics.suites import Renderer, Suite
from kiban.robotics.tasks import Wordings

RECORDS, PLAN, REPORT = "episodes.jsonl", "plan.json", "report.json"
REGISTERS = ("plain", "polite", "honorific")
DRAWS = 4000  # of a success rate from its distribution, for the interval of an average

Compared = Literal["held-out", "train", "all"]


@dataclass(frozen=True)
class Plan:
    """What is evaluated. `policy` and `language` are folders (or rollout.EXPERT and nothing), `digest` tells policies
    apart. `wordings`: `held-out` or `train` alone; `all` also compares the registers. `perturbations` are compared with
    training wordings in the world of the demonstrations. `instructions` replace a task's wordings, in turns.
    `embodiment`: a name or a file, instead of the suite's own."""

    policy: str
    language: str
    digest: str
    suite: Suite
    tasks: tuple[str, ...]
    episodes: int
    seeds: tuple[int, ...]
    wordings: Compared = "held-out"
    perturbations: tuple[Perturbation, ...] = ()
    instructions: dict[str, tuple[str, ...]] | None = None
    embodiment: str | None = None
    renderer: Renderer = "rays"

    @property
    def headline(self) -> Wordings:
        """The wordings that the suite's figures are of."""
        return "train" if self.wordings == "train" else "held_out"

    @property
    def robot(self) -> Embodiment:
        return embodiments.load(self.embodiment or self.suite.embodiment)

    def conditions(self) -> list[tuple[Wordings, str | None, Perturbation]]:
        found: list[tuple[Wordings, str | None, Perturbation]] = [(self.headline, None, NONE)]
        if self.wordings == "all" or self.perturbations:
            found.append(("train", None, NONE))
        if self.wordings == "all":
            found += [("held_out", register, NONE) for register in REGISTERS]
        found += [("train", None, perturbation) for perturbation in self.perturbations]
        return list(dict.fromkeys(found))

    def requests(self) -> list[Request]:
        return [self._request(task, seed, number, *condition)
                for task in self.tasks
                for condition in self.conditions()
                for seed in self.seeds
                for number in range(self.episodes)]  # fmt: skip

    def _request(
        self, task: str, seed: int, number: int, wordings: Wordings, register: str | None, perturbation: Perturbation
    ) -> Request:
        given = self.instructions[task] if self.instructions else None
        return Request(
            self.policy,
            self.language,
            task,
            wordings,
            number,
            episode_seed(ROLLOUTS, seed, task, number),
            given[number % len(given)] if given else None,
            self.suite.name,
            register,
            perturbation,
            self.renderer,
            seed,
            self.embodiment or self.suite.embodiment,
        )

    def identity(self) -> dict[str, Any]:
        """What two evaluations must share for records of one to count in the other."""
        return {
            "policy": self.digest,
            "suite": self.suite.name,
            "renderer": self.renderer,
            "embodiment": self.robot.model_dump(mode="json"),
            "instructions": {task: list(texts) for task, texts in (self.instructions or {}).items()},
        }


def evaluate(plan: Plan, folder: Path | None, progress: Progress, processes: int | None, films: bool) -> dict[str, Any]:
    """Plays what is missing in `folder` (or all, without one) and returns the report, which it leaves there.

    Each record is on disk before the next is waited for: a killed evaluation goes on from there, and one with more
    episodes, tasks or conditions plays the difference.

    Raises:
        KibanError: if `folder` holds records of another policy, suite, robot, renderer or other instructions.
    """
    requests = plan.requests()
    if folder is None:
        return report(plan, rollout.evaluate(requests, progress, processes))
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / PLAN).exists():
        kept = read_json(folder / PLAN)
        for name, value in plan.identity().items():
            if kept.get(name) != value:
                raise KibanError(f"{folder}: holds an evaluation with another {name}; name another folder")
    elif any(folder.iterdir()):
        raise KibanError(f"{folder}: is not empty and no evaluation; name another folder")
    write_json(folder / PLAN, plan.identity())
    known = _known(folder / RECORDS, requests)
    with (folder / RECORDS).open("a", encoding="utf-8") as file:

        def keep(record: Record) -> None:
            file.write(json.dumps(asdict(record), ensure_ascii=False, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())

        records = rollout.evaluate(requests, progress, processes, known, keep)
    found = report(plan, records)
    if films:
        played = [pair for pair in zip(requests, records, strict=True) if _is_headline(plan, pair[1])]
        found["films"] = rollout.film_tasks(played, folder / "films")
    write_json(folder / REPORT, found)
    return found


def _known(path: Path, requests: list[Request]) -> dict[Request, Record]:
    """The records of `requests` that are on disk. A line that was cut off when the process was killed is removed."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    kept: dict[tuple[Any, ...], Record] = {}
    for number, line in enumerate(whole.decode(errors="replace").splitlines(), start=1):
        try:
            record = Record(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            raise KibanError(f"{path}, line {number}: is no record of an episode; delete the line") from None
        kept[record.task, record.condition, record.evaluation_seed, record.number] = record
    found = {r: kept.get((r.task, r.condition, r.evaluation_seed, r.number)) for r in requests}
    return {request: record for request, record in found.items() if record is not None and record.seed == request.seed}


def _is_headline(plan: Plan, record: Record) -> bool:
    return record.condition == plan.headline


def report(plan: Plan, records: list[Record]) -> dict[str, Any]:
    """`tasks`, `groups`, `average` (of the groups' rates, which count alike), and what wordings and perturbations cost.

    Rates are shares in 0..1 with 95 % intervals: Wilson's for tasks and for all episodes together, Jeffreys' (from
    Beta(successes + 1/2, failures + 1/2) of each task) for averages, the bootstrap of pairs for differences.
    """
    headline = [record for record in records if _is_headline(plan, record)]
    counts = {task: [r.success for r in headline if r.task == task] for task in plan.tasks}
    groups = {group: [t for t in plan.tasks if plan.suite.groups[t] == group] for group in plan.suite.groups.values()}
    groups = {group: members for group, members in groups.items() if members}
    found: dict[str, Any] = {
        "suite": plan.suite.name,
        "policy": plan.digest,
        "wordings": plan.headline if plan.instructions is None else "given",
        "renderer": plan.renderer,
        "seeds": list(plan.seeds),
        "tasks": [
            {
                "name": task,
                "group": plan.suite.groups[task],
                "successes": sum(outcomes),
                "episodes": len(outcomes),
                "interval": list(wilson(sum(outcomes), len(outcomes))),
            }
            for task, outcomes in counts.items()
        ],
        "groups": {group: _group(members, counts) for group, members in groups.items()},
        **_share(headline),
        "interventions_per_episode": float(np.mean([sum(r.interventions.values()) for r in headline])),
        "episodes": [asdict(record) for record in records],
    }
    found["average"] = float(np.mean([group["success_rate"] for group in found["groups"].values()]))
    found["average_interval"] = _average_interval([[counts[task] for task in m] for m in groups.values()])
    if len(plan.seeds) > 1:
        found["average_of_seed"] = {
            str(seed): _average(plan, [r for r in headline if r.evaluation_seed == seed], groups) for seed in plan.seeds
        }
    if plan.wordings == "all":
        conditions = [condition for condition in plan.conditions() if condition[2] == NONE]
        found["compared_wordings"] = _compared(records, conditions)
    if plan.perturbations:
        found["perturbations"] = _compared(records, [("train", None, p) for p in (NONE, *plan.perturbations)])
    return found


def _share(records: list[Record]) -> dict[str, Any]:
    successes = sum(record.success for record in records)
    return {"success_rate": successes / len(records), "interval": list(wilson(successes, len(records)))}


def _group(members: list[str], counts: dict[str, list[bool]]) -> dict[str, Any]:
    """The mean of its tasks' rates."""
    rates = [float(np.mean(counts[task])) for task in members]
    return {
        "tasks": len(members),
        "successes": sum(sum(counts[task]) for task in members),
        "episodes": sum(len(counts[task]) for task in members),
        "success_rate": float(np.mean(rates)),
        "interval": _average_interval([[counts[task] for task in members]]),
    }


def _average(plan: Plan, records: list[Record], groups: dict[str, list[str]]) -> float:
    rates = {task: np.mean([r.success for r in records if r.task == task]) for task in plan.tasks}
    return float(np.mean([np.mean([rates[task] for task in members]) for members in groups.values()]))


def _average_interval(groups: list[list[list[bool]]]) -> list[float]:
    """Of the mean over groups of the mean over tasks; it contains the estimate."""
    rng = np.random.default_rng(0)
    draws = np.mean(
        [
            np.mean([rng.beta(sum(o) + 0.5, len(o) - sum(o) + 0.5, DRAWS) for o in outcomes], axis=0)
            for outcomes in groups
        ],
        axis=0,
    )
    estimate = float(np.mean([np.mean([np.mean(o) for o in outcomes]) for outcomes in groups]))
    low, high = np.quantile(draws, [0.025, 0.975])
    return [min(float(low), estimate), max(float(high), estimate)]


def _compared(
    records: list[Record], conditions: Iterable[tuple[Wordings, str | None, Perturbation]]
) -> list[dict[str, Any]]:
    """Each condition's rate, and its difference from training wordings in the demonstrations' world, pair by pair."""
    by_condition: dict[str, dict[tuple[str, int, int], Record]] = {}
    for record in records:
        by_condition.setdefault(record.condition, {})[record.task, record.evaluation_seed, record.number] = record
    reference = by_condition["train"]
    rows = []
    for wordings, register, perturbation in conditions:
        name = Request("", "", "", wordings, 0, 0, register=register, perturbation=perturbation).condition
        found = by_condition[name]
        differences = [float(found[key].success) - float(reference[key].success) for key in reference]
        row: dict[str, Any] = {"condition": name, "episodes": len(found), **_share(list(found.values()))}
        if name != "train":
            row["difference"] = float(np.mean(differences))
            row["difference_interval"] = list(bootstrap_mean(differences, seed=0))
        rows.append(row)
    return rows
