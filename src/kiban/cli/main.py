"""The `kiban` command: its sub-commands, its exit codes, and the one place where errors become one line.

Exit codes: 0 done; 1 the answer is no (not verified, not found); 2 something a person can mend; 130 interrupted.
"""

import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from kiban import __version__
from kiban.artifacts.errors import KibanError
from kiban.cli.corpus import app as corpus_app
from kiban.cli.doctor import doctor
from kiban.cli.dryrun import dryrun
from kiban.cli.eval import app as eval_app
from kiban.cli.export import export
from kiban.cli.forecast import forecast, ladder
from kiban.cli.init import init
from kiban.cli.launch import launch
from kiban.cli.plan import app as plan_app
from kiban.cli.robot import app as robot_app
from kiban.cli.run import report, run, status
from kiban.cli.serve import chat, serve
from kiban.cli.tokenizer import app as tokenizer_app
from kiban.cli.trace import trace
from kiban.cli.train import tokens, train
from kiban.cli.verify import verify

INTERRUPTED = 130

app = typer.Typer(
    name="kiban",
    help="From rights-cleared Japanese data to a verified milestone.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)


for command in (
    *(init, run, status, report, trace, export, tokens, train, verify, serve, chat),
    *(ladder, forecast, dryrun, launch, doctor),
):
    app.command()(command)
app.add_typer(corpus_app, name="corpus")
app.add_typer(eval_app, name="eval")
app.add_typer(plan_app, name="plan")
app.add_typer(robot_app, name="robot")
app.add_typer(tokenizer_app, name="tokenizer")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"kiban {__version__}")
        raise typer.Exit()


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    pass


def _terminated(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _interrupted() -> NoReturn:
    print("kiban: interrupted; what is finished is kept, run the same command again to go on", file=sys.stderr)
    sys.exit(INTERRUPTED)


def main() -> None:
    """Entry point of the console script."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app(standalone_mode=True)
    except KibanError as error:
        print(f"kiban: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # typer has turned a KeyboardInterrupt into it, without a word
            _interrupted()
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
