"""What the command line shows: the state of every stage, and the one screen at the end of a run."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kiban.artifacts.store import Artifact
from kiban.console.figures import key_figure, summary
from kiban.console.sections.milestones import milestones
from kiban.console.words import duration

STYLES = {"met": "green", "partly-met": "yellow", "not-met": "red"}


def _console() -> Console:
    return Console(highlight=False)


def _table() -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 3, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    return table


def status_table(stages: Sequence[tuple[str, Artifact | None, str]]) -> None:
    """A line for every (stage, artifact if it is made, reason): its key figure and time, or why it will be made."""
    table = _table()
    for name, artifact, reason in stages:
        if artifact is None:
            table.add_row(Text(name), Text(reason, "dim"), "")
        else:
            table.add_row(Text(name), Text(key_figure(artifact).en), Text(duration(artifact.manifest.made.seconds).en))
    _console().print(table)


def final_screen(programme_name: str, artifacts: Sequence[Artifact], report: Path) -> None:
    """Every stage with its key figure and time, every milestone with its verdict, and where the report lies."""
    console = _console()
    console.print(Text(f"\n{programme_name}\n", "bold"))
    table = _table()
    for row in summary(artifacts):
        table.add_row(Text(row.stage), Text(row.key.en), Text(duration(row.seconds).en))
    console.print(table)
    judged = next((artifact for artifact in artifacts if artifact.kind == "milestones"), None)
    verdicts = Table(box=None, pad_edge=False, show_header=False, padding=(0, 3, 0, 0))
    for milestone in milestones(judged) or []:
        verdicts.add_row(
            Text(milestone["id"]),
            Text(milestone["verdict"].en, STYLES.get(milestone["verdict_class"], "")),
            Text(milestone["title"]),
        )
    if verdicts.row_count:
        console.print()
        console.print(verdicts)
    console.print(Text(f"\nreport: {report}"), soft_wrap=True)
