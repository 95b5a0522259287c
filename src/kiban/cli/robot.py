"""`kiban robot`: demonstrations, and a policy's success rate."""

from pathlib import Path

import typer

from kiban.artifacts.errors import KibanError
from kiban.artifacts.manifest import MANIFEST
from kiban.artifacts.store import read_artifact
from kiban.cli import robot_check, robot_serve
from kiban.cli.robot_collect import collect, convert, inspect
from kiban.cli.robot_evaluate import evaluate
from kiban.cli.robot_train import train

app = typer.Typer(help="Demonstrations, policies and their success rates.", no_args_is_help=True, rich_markup_mode=None)
for command in (collect, inspect, convert, train, evaluate):
    app.command()(command)
robot_check.register(app)
robot_serve.register(app)


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
