"""`kiban robot evaluate`: a policy's success on a suite, by task, group, wording and perturbation."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="A programme, or a policy's folder.")] = Path(),
    policy: Annotated[str | None, typer.Option(help="`expert`: the scripted expert instead of a policy.")] = None,
    suite: Annotated[str | None, typer.Option(help="tabletop or mt50-ja; the policy's own if not given.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Repeatedly; all that the policy knows if not given.")] = None,
    episodes: Annotated[int, typer.Option(min=1, help="How many of each task, seed and condition.")] = 10,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="Repeatedly: other objects, places, sentences. 1 if not given.")
    ] = None,
    wordings: Annotated[
        str, typer.Option(help="held-out, train, or all: those two and each register, compared in pairs.")
    ] = "held-out",
    instruction: Annotated[str | None, typer.Option(help="Say this in every episode instead.")] = None,
    instructions: Annotated[
        Path | None, typer.Option(help="A file of lines `task<TAB>sentence` or JSON: say these, do these tasks.")
    ] = None,
    perturb: Annotated[
        list[str] | None,
        typer.Option(
            help="Repeatedly: camera=2cm, light=50%, distractors=2, wording, mass=200%, friction=50%, latency=2."
        ),
    ] = None,
    perturbations: Annotated[str | None, typer.Option(help="`all`: each of these alone.")] = None,
    out: Annotated[Path | None, typer.Option(help="Keep records here as JSON lines; resumes what is there.")] = None,
    films: Annotated[bool, typer.Option("--films", help="Film an episode of each task into --out.")] = False,
    embodiment: Annotated[
        str | None, typer.Option(help="A .toml of the suite's robot, with other cameras, say.")
    ] = None,
    renderer: Annotated[
        str, typer.Option(help="rays, or gl (Meta-World alone; not the same bits everywhere).")
    ] = "rays",
    processes: Annotated[
        int | None, typer.Option(min=1, help="All cores if not given; the results are the same.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Lets a trained policy carry out held-out instructions in the simulator, and counts.

    Example: kiban robot evaluate recipes/demo --task push --episodes 20 --json
    """
    from kiban.cli.show import print_json
    from kiban.robotics import evaluation
    from kiban.robotics.instructions import check, read
    from kiban.robotics.perturbations import STANDARD, parse
    from kiban.robotics.rollout import EXPERT
    from kiban.robotics.suites import SUITES
    from kiban.robotics.suites import suite as suite_of

    _one_of("--wordings", wordings, ("held-out", "train", "all"))
    _one_of("--renderer", renderer, ("rays", "gl"))
    _one_of("--policy", policy, (EXPERT, None))
    _one_of("--perturbations", perturbations, ("all", None))
    if films and out is None:
        raise KibanError("--films: needs --out, where films go")
    if instruction is not None and instructions is not None:
        raise KibanError("--instruction and --instructions: give one of them")
    if policy is None:
        source, language, digest, learned, able = _trained(folder)
    else:
        source, language, digest, learned, able = EXPERT, "", EXPERT, (), list(SUITES)
    chosen = suite_of(suite or able[0])
    if chosen.name not in able:
        raise KibanError(f"--suite {chosen.name}: this policy was trained for {', '.join(able)}")
    known = tuple(name for name in learned if name in chosen.groups)
    tasks = tuple(dict.fromkeys(task or known or chosen.groups))
    for name in tasks:
        if known and name not in known:
            raise KibanError(f"--task {name}: this policy was trained on {', '.join(known)}")
        if name not in chosen.groups:
            raise KibanError(f"--task {name}: {chosen.name} has no such task; it has {', '.join(chosen.groups)}")
    given: dict[str, tuple[str, ...]] | None = None
    if instruction is not None:
        given = {name: (check(instruction, "--instruction"),) for name in tasks}
    elif instructions is not None:
        given = read(instructions, tasks, needed=task or ())
        if len(given) < len(tasks):
            left_out = f"{len(given)} of {len(tasks)} tasks have sentences; the others are left out"
            print(f"kiban: {instructions}: {left_out}", file=sys.stderr)
            tasks = tuple(name for name in tasks if name in given)
    if given is not None and wordings != "held-out":
        raise KibanError("--wordings: has no effect where the sentences are given; leave it out")
    asked = (*(STANDARD if perturbations else ()), *parse(perturb or ()))
    if given is not None and any(perturbation.wording for perturbation in asked):
        raise KibanError("perturbation 'wording': has no effect where the sentences are given; leave it out")
    plan = evaluation.Plan(
        source,
        language,
        digest,
        chosen,
        tasks,
        episodes,
        tuple(dict.fromkeys(seed or [1])),
        wordings,  # type: ignore[arg-type]
        tuple(dict.fromkeys(asked)),
        given,
        embodiment or chosen.embodiment,
        renderer,  # type: ignore[arg-type]
    )
    found = evaluation.evaluate(plan, out, Progress(quiet=as_json), processes, films)
    if as_json:
        print_json(found)
    else:
        _show(found)


def _one_of(option: str, value: str | None, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        raise KibanError(f"{option} {value}: use {' or '.join(name for name in allowed if name)}")


def _trained(folder: Path) -> tuple[str, str, str, tuple[str, ...], list[str]]:
    """Of a trained policy: its folder, its language model's, what tells it apart, its tasks, its robots' suites."""
    from kiban.artifacts.hashing import sha256_file
    from kiban.cli.robot import policy_and_language
    from kiban.robotics.agent import WEIGHTS, load_policy
    from kiban.robotics.suites import SUITES

    policy, language = policy_and_language(folder)
    description = load_policy(policy)[1]
    able = [
        suite.name
        for suite in SUITES.values()
        if suite.embodiment in description.embodiments
        and (not description.tasks or set(description.tasks) & set(suite.groups))
    ]
    if not able:
        robots = ", ".join(description.embodiments)
        raise KibanError(f"{policy}: was trained for {robots}, and no suite has its tasks; evaluate it on that robot")
    return str(policy), str(language), sha256_file(policy / WEIGHTS), tuple(description.tasks), able


def _percent(row: dict[str, Any], rate: float, interval: str = "interval") -> str:
    low, high = row[interval]
    return f"{rate:4.0%} (95 % interval {low:.0%} to {high:.0%})"


def _show(found: dict[str, Any]) -> None:
    width = max(len(task["name"]) for task in found["tasks"])
    for task in found["tasks"]:
        rate = _percent(task, task["successes"] / task["episodes"])
        print(f"{task['name']:{width}}  {task['successes']:3} of {task['episodes']:3}  {rate}  {task['group']}")
    for name, group in found["groups"].items():
        print(f"{name}: {_percent(group, group['success_rate'])} over {group['tasks']} tasks")
    print(f"average of groups: {_percent(found, found['average'], 'average_interval')}")
    for row in (*found.get("compared_wordings", ()), *found.get("perturbations", ())):
        change = ""
        if "difference" in row:
            low, high = row["difference_interval"]
            change = f", {100 * row['difference']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
        print(f"{row['condition']}: {_percent(row, row['success_rate'])}{change}")
