"""`kiban robot`: demonstrations, and a policy's success rate."""

from pathlib import Path
from typing import Annotated

import typer

from kiban.artifacts.errors import KibanError
from kiban.artifacts.manifest import MANIFEST
from kiban.artifacts.progress import Progress
from kiban.artifacts.store import read_artifact
from kiban.cli import robot_check
from kiban.cli.robot_evaluate import evaluate

app = typer.Typer(help="Demonstrations, policies and their success rates.", no_args_is_help=True, rich_markup_mode=None)
robot_check.register(app)


app.command()(evaluate)


@app.command()
def collect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the dataset goes; must not exist.")],
    task: Annotated[list[str] | None, typer.Option(help="reach, push or pick, repeatedly; reach if not given.")] = None,
    episodes: Annotated[int, typer.Option(min=1, help="How many of each task.")] = 10,
    embodiment: Annotated[str, typer.Option(help="Which robot.")] = "tabletop-arm",
    seed: Annotated[int, typer.Option(min=0, help="Other objects, other places, other sentences.")] = 0,
) -> None:
    """Records demonstrations of the scripted expert as a LeRobot v3 dataset.

    Example: kiban robot collect pushes --task push --task pick --episodes 50
    """
    import tempfile

    from kiban.robotics.demonstrations import collect as record_all
    from kiban.robotics.embodiment import load

    if folder.exists():
        raise KibanError(f"{folder}: is there already; name a folder that is not")
    robot = load(embodiment)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        whole = Path(scratch) / "dataset"
        summary = record_all(
            robot, tuple(task or ["reach"]), episodes, seed, whole, Path(scratch) / "episodes", Progress()
        )
        whole.rename(folder)
    print(f"{folder}: {summary.episodes} episodes, {summary.frames} frames")


def _policy_and_language(folder: Path) -> tuple[Path, Path]:
    """The folders of a policy and of the language model it was trained with.

    Raises:
        KibanError: if there is no policy, or its language model is not where the store has it.
    """
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
