"""`kiban robot`: demonstrations, and a policy's success rate."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kiban.artifacts.errors import KibanError
from kiban.artifacts.manifest import MANIFEST
from kiban.artifacts.progress import Progress
from kiban.artifacts.store import read_artifact
from kiban.cli import robot_serve
from kiban.cli.robot_collect import collect, convert, inspect
from kiban.cli.robot_train import train

app = typer.Typer(help="Demonstrations, policies and their success rates.", no_args_is_help=True, rich_markup_mode=None)
for command in (collect, inspect, convert, train):
    app.command()(command)
robot_serve.register(app)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="A programme, or a policy's folder.")] = Path(),
    task: Annotated[str, typer.Option(help="reach, push or pick.")] = "reach",
    episodes: Annotated[int, typer.Option(min=1, help="How many episodes.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Other objects, other places, other sentences.")] = 1,
    instruction: Annotated[str | None, typer.Option(help="Say this in every episode instead.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Lets a trained policy carry out held-out instructions in the simulator, and counts.

    Example: kiban robot evaluate recipes/demo --task push --episodes 20 --json
    """
    from kiban.artifacts.intervals import wilson
    from kiban.cli.show import print_json
    from kiban.robotics.agent import load_policy
    from kiban.robotics.rollout import evaluate as roll_out
    from kiban.robotics.rollout import requests_for

    policy, language = policy_and_language(folder)
    trained_on = load_policy(policy)[1].tasks
    if trained_on and task not in trained_on:
        raise KibanError(f"--task {task}: this policy was trained on {', '.join(trained_on)}")
    requests = requests_for(policy, language, (task,), ("held_out",), episodes, seed, instruction)
    records = roll_out(requests, Progress(quiet=as_json))
    successes = sum(record.success for record in records)
    low, high = wilson(successes, len(records))
    if as_json:
        print_json(
            {
                "task": task,
                "success_rate": successes / len(records),
                "interval": [low, high],
                "episodes": [asdict(record) for record in records],
            }
        )
        return
    for record in records:
        print(f"{'done  ' if record.success else 'failed'} {record.steps:3} steps  {record.instruction}")
    print(
        f"{task}: {successes} of {len(records)} ({successes / len(records):.0%}, 95 % interval {low:.0%} to {high:.0%})"
    )


def policy_and_language(folder: Path) -> tuple[Path, Path]:
    """The folders of a policy and of the language model it was trained with.

    Raises:
        KibanError: if there is no policy, or its language model is not where the store has it.
    """
    if (folder / "policy.json").exists() and (folder / "language").is_dir():  # of `kiban robot train`
        return folder, folder / "language"
    if not (folder / MANIFEST).exists():
        from kiban.programme import graph, runner
        from kiban.programme.settings import load

        programme = load(folder)
        steps = runner.plan(graph.nodes(programme), graph.store_of(programme))
        made = {step.node.name: step.artifact.path for step in steps if step.artifact}
        if "policy" not in made or "export" not in made:
            raise KibanError(f"{folder}: no policy is made yet; `kiban run {folder} --to policy` makes it")
        return made["policy"], made["export"]
    artifact = read_artifact(folder)
    if artifact.kind != "policy":
        raise KibanError(f"{folder}: is a {artifact.kind}, not a policy; name a programme or a policy's folder")
    language = folder.absolute().parent.parent / "export" / artifact.manifest.inputs["export"].removeprefix("sha256:")
    if not language.is_dir():
        raise KibanError(f"{language}: the language model that the policy was trained with is missing; restore it")
    return folder, language
