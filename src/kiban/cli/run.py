"""`kiban run`, `status` and `report`: make what is missing, say how it stands, show it."""

import time
from pathlib import Path
from typing import Annotated

import typer

from kiban.artifacts.progress import Progress
from kiban.artifacts.store import Artifact, Store
from kiban.cli.show import print_json
from kiban.programme import graph, runner
from kiban.programme.settings import Programme, load

Folder = Annotated[Path, typer.Argument(help="A programme: a folder with a kiban.toml, or that file.")]


def run(
    folder: Folder = Path(),
    to: Annotated[str | None, typer.Option(help="Stop after this stage, such as `model`.")] = None,
    explain: Annotated[bool, typer.Option(help="Say what would be made and why, and make nothing.")] = False,
) -> None:
    """Makes what is missing of a programme, and nothing else. Interrupt it and run it again: it goes on.

    Example: kiban run recipes/demo --to tokenizer
    """
    start = time.monotonic()
    programme = load(folder)
    store = graph.store_of(programme)
    _prepare_milestones(programme)
    nodes = graph.nodes(programme)
    if to:
        nodes = graph.up_to(nodes, to)
    steps = runner.plan(nodes, store)
    if explain:
        for name, reason in runner.explain(steps, store):
            print(f"{name}: {reason}")
        return
    progress = Progress()
    missing = [step.node.name for step in steps if step.artifact is None]
    artifacts = runner.make(programme.programme.name, steps, store, progress)
    if missing:
        _publish_evidence(programme, artifacts)
    else:
        progress.say(f"nothing to do: all {len(steps)} stages are made ({time.monotonic() - start:.1f} s)")
    _show(programme, artifacts)


def report(folder: Folder = Path()) -> None:
    """Writes report.html anew from what is made so far.

    Example: kiban report recipes/demo
    """
    from kiban.console.report import write

    programme = load(folder)
    artifacts = _made(programme, graph.store_of(programme))
    print(write(programme.programme.name, artifacts, programme.folder / "report.html"))


def status(
    folder: Folder = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    check: Annotated[bool, typer.Option(help="Re-read every byte of every artifact.")] = False,
) -> None:
    """Says of every stage whether it is made, with its figures.

    Example: kiban status recipes/demo --json
    """
    from kiban.console.terminal import status_table

    programme = load(folder)
    store = graph.store_of(programme)
    steps = runner.plan(graph.nodes(programme), store)
    if check:
        for step in steps:
            if step.artifact:
                step.artifact.check()
    if as_json:
        stages = [
            {
                "stage": step.node.name,
                "address": step.address,
                "made": step.artifact is not None,
                "path": str(step.artifact.path) if step.artifact else None,
                "metrics": {
                    name: metric.model_dump(mode="json", exclude_none=True)
                    for name, metric in (step.artifact.metrics if step.artifact else {}).items()
                },
                "rights": step.rights.model_dump(mode="json"),
                "seconds": step.artifact.manifest.made.seconds if step.artifact else None,
                "peak_bytes": step.artifact.manifest.made.peak_bytes if step.artifact else None,
            }
            for step in steps
        ]
        print_json({"programme": programme.programme.name, "stages": stages})
        return
    reasons = dict(runner.explain(steps, store))
    status_table([(step.node.name, step.artifact, reasons[step.node.name]) for step in steps])


def _made(programme: Programme, store: Store) -> list[Artifact]:
    steps = runner.plan(graph.nodes(programme), store)
    return [step.artifact for step in steps if step.artifact]


def _prepare_milestones(programme: Programme) -> None:
    """The gate plan is signed before anything runs, so that no goal can move to where the result landed."""
    if not programme.milestones:
        return
    from kiban.milestones.plan import prepare

    prepare(programme.folder, programme.milestones, programme.partners, programme.programme.demo_keys)


def _publish_evidence(programme: Programme, artifacts: list[Artifact]) -> None:
    """Copies evidence out of the store to where people look for it: evidence/<MILESTONE>.dsse.json."""
    from kiban.artifacts.files import write_atomic

    for artifact in artifacts:
        if artifact.kind == "milestones":
            for bundle in sorted((artifact.path / "evidence").glob("*.dsse.json")):
                write_atomic(programme.folder / "evidence" / bundle.name, bundle.read_bytes())


def _show(programme: Programme, artifacts: list[Artifact]) -> None:
    from kiban.console.report import write
    from kiban.console.terminal import final_screen

    path = write(programme.programme.name, artifacts, programme.folder / "report.html")
    final_screen(programme.programme.name, artifacts, path)
