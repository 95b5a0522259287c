"""`kiban eval`: suites, texts and comparisons."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kiban.artifacts.errors import KibanError
from kiban.cli.show import print_json

app = typer.Typer(help="Scores a model.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def run(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="An exported model, a run, a checkpoint, or any Hugging Face folder.")
    ] = None,
    suite: Annotated[list[str] | None, typer.Option(help="A suite; may be repeated. All by default.")] = None,
    compare: Annotated[Path | None, typer.Option(help="Results, or another model, to compare with.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="An OpenAI-compatible address, instead of a folder.")] = None,
    model: Annotated[str, typer.Option(help="The model's name at the endpoint.")] = "default",
    out: Annotated[Path | None, typer.Option(help="Where results go: evaluation/<model> by default.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items of a suite; the same for every model.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A wording of the prompt, or `all`.")] = None,
    shots: Annotated[int | None, typer.Option(min=0, max=16, help="Examples before each question.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many draws of examples.")] = 1,
    set_path: Annotated[list[str] | None, typer.Option("--set", help="SUITE=PATH: where a set lies.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="A corpus: contamination, and its held-back documents.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="The tokenizer's folder, if not the model's.")] = None,
    tokens: Annotated[int | None, typer.Option(min=0, help="Tokens trained on, where the folder does not say.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes of one thread each; 1: this one.")] = 1,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens read at once.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that an endpoint may take.")] = 120.0,
    cache: Annotated[Path | None, typer.Option(help="A file for what was answered.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Runs suites: prints a table, writes results.json, items.jsonl and index.html. Interrupted, it goes on.

    Example: kiban eval run model-hf --suite keigo --suite jcommonsenseqa
    """
    from kiban.artifacts.files import write_json
    from kiban.artifacts.progress import Progress
    from kiban.console.evaluation_page import write as write_page
    from kiban.evaluation import results
    from kiban.evaluation import run as runs
    from kiban.evaluation.answers import Answers, default_cache
    from kiban.evaluation.endpoint import Endpoint
    from kiban.evaluation.models import LocalModel, locate
    from kiban.evaluation.stage import evaluation_data
    from kiban.evaluation.suite import names

    if (checkpoint is None) == (endpoint is None):
        raise KibanError("give a model's folder, or --endpoint with --model")
    plan = runs.Plan(
        suites=tuple(suite or names()),
        limit=limit,
        prompts=tuple(prompt or ("default",)),
        shots=shots,
        seeds=tuple(range(seeds)),
        data=evaluation_data(),
        paths=_paths(set_path or []),
        corpus=corpus,
    )
    progress = Progress(quiet=as_json)

    def asked(folder: Path | None) -> tuple[runs.Run, dict[str, Any]]:
        where = None if folder is None else locate(folder, tokenizer)
        if where is None:
            assert endpoint is not None
            found: Any = Endpoint(endpoint, model, timeout)
        else:
            found = LocalModel(where, processes, batch_tokens)
        done = runs.evaluate(Answers(found, cache or default_cache()), plan, progress)
        trained = where.tokens_trained() if where else None
        return done, {"name": found.name, "digest": found.digest, "tokens_trained": trained}

    done, described = asked(checkpoint)
    if tokens is not None:
        if described["tokens_trained"] not in (None, tokens):
            raise KibanError(f"--tokens {tokens}: the model says that it was trained on {described['tokens_trained']}")
        described["tokens_trained"] = tokens
    folder = out or Path("evaluation") / str(described["name"]).replace("/", "-")
    content = done.results | {"model": described}
    if compare is not None:
        if (compare / results.RESULTS).is_file():
            theirs = results.read_items(compare)
            other = results.read(compare).get("model", {"name": compare.name})["name"]
        else:
            second, about = asked(compare)
            theirs, other = second.rows, about["name"]
        apart = runs.compare(theirs, done.rows)
        if not apart:
            raise KibanError(
                f"{compare}: no item was asked of both in the same way; run the same suites, or name a model"
            )
        content["compared"] = {"with": other, "suites": apart}
    folder.mkdir(parents=True, exist_ok=True)
    results.write_items(folder / results.ITEMS, done.rows)
    write_json(folder / results.RESULTS, content)
    write_page(content, done.rows, folder / "index.html")
    if as_json:
        print_json(content)
        return
    _print(content)
    print(f"{folder}/index.html  every item; {folder}/{results.RESULTS}")


@app.command()
def leaderboard(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `kiban eval run` wrote.")],
    page: Annotated[Path | None, typer.Option("--html", help="Write a page, with scores over tokens drawn.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Checkpoints side by side, in order of the tokens that they were trained on.

    Example: kiban eval leaderboard evaluation/model-hf
    """
    from kiban.artifacts.progress import count
    from kiban.evaluation import results

    found = results.leaderboard(folders)
    if page:
        from kiban.console.leaderboard_page import write

        print(write(found, page))
        return
    if as_json:
        print_json(found)
        return
    rows = [
        [
            row["model"],
            "unknown" if row["tokens"] is None else count(row["tokens"]),
            *(_value(row["scores"].get(name)) for name in found["suites"]),
        ]
        for row in found["rows"]
    ]
    _table(["model", "tokens", *found["suites"]], rows)
    if found["not_comparable"]:
        print(f"not asked alike in all rows, and not comparable: {', '.join(found['not_comparable'])}")


@app.command()
def judge(
    folder: Annotated[Path, typer.Argument(help="Results with texts that a model wrote.")],
    endpoint: Annotated[str, typer.Option(help="An OpenAI-compatible address.")],
    model: Annotated[str, typer.Option(help="The judge's name there.")] = "default",
    labels: Annotated[Path | None, typer.Option(help="JSON lines of {id, label: true|false} by people.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that the endpoint may take.")] = 120.0,
    cache: Annotated[Path | None, typer.Option(help="A file for what was answered.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Lets a model judge what another wrote, and measures how far it agrees with itself, the rules, and people.

    Example: kiban eval judge evaluation/model-hf --endpoint http://127.0.0.1:8000/v1 --model judge
    """
    from kiban.artifacts.files import write_json
    from kiban.artifacts.progress import Progress
    from kiban.evaluation import judge as judges
    from kiban.evaluation import results
    from kiban.evaluation.answers import Answers, default_cache
    from kiban.evaluation.endpoint import Endpoint

    rows = results.read_items(folder)
    answers = Answers(Endpoint(endpoint, model, timeout), cache or default_cache())
    found = judges.judge(rows, answers, judges.read_labels(labels) if labels else {}, Progress(quiet=as_json))
    write_json(folder / "judged.json", found)
    if as_json:
        print_json(found)
        return
    summary = found["summary"]
    _table(
        ["", "agreement", "kappa", "n"],
        [
            [name, f"{100 * row['agreement']:.1f} %", f"{row['kappa']:.2f}", str(row["n"])]
            for name, row in summary["agreement"].items()
        ],
    )
    decided = summary["judged"] - summary["undecided"]
    print(f"{100 * summary['good']:.1f} % of {decided} texts are good to the judge; {summary['undecided']} undecided")


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="An exported model (Hugging Face layout).")],
    text_file: Annotated[Path, typer.Option(help="UTF-8 text to score.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The log-likelihood of a text, in nats, and bits per character.

    Example: kiban eval score model-hf --text-file letter.txt --json
    """
    from kiban.evaluation.models import locate

    try:
        text = text_file.read_bytes().decode("utf-8")  # as given: line ends too
    except OSError as error:
        raise KibanError(f"{text_file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise KibanError(f"{text_file}: not UTF-8 (byte {error.start}); convert it first") from None
    if not text:
        raise KibanError(f"{text_file}: empty; there is nothing to score")
    [found] = locate(folder).load().texts([text])
    answer = {
        "log_likelihood": found.log_likelihood,
        "tokens": found.tokens,
        "characters": found.characters,
        "bits_per_character": found.bits_per_character,
    }
    if as_json:
        print_json(answer)
    else:
        print(
            f"{found.bits_per_character:.4f} bits/character over {found.characters} characters, {found.tokens} tokens"
        )


@app.command("list")
def list_suites(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """What each suite measures, how many items it has here, its licence and its source.

    Example: kiban eval list
    """
    from kiban.evaluation import suite
    from kiban.evaluation.stage import evaluation_data

    rows = []
    for name in suite.names():
        found = suite.load(name)
        path = found.path(evaluation_data())
        size = len(suite.items(found, path)) if path and path.exists() else None
        rows.append(
            {"name": name, "measures": found.measures, "items": size, "licence": found.licence}
            | {"source": found.source, "version": found.version, "prompts": ["default", *found.variants]}
        )
    if as_json:
        print_json(rows)
        return
    for row in rows:
        count = "not here" if row["items"] is None else f"{row['items']} items"
        print(f"{row['name']:22} {row['measures']} ({count}; {row['source']}; {row['licence']})")


def _paths(given: list[str]) -> dict[str, Path]:
    paths = {}
    for text in given:
        name, separator, path = text.partition("=")
        if not separator or not path:
            raise KibanError(f"--set '{text}': give SUITE=PATH")
        paths[name] = Path(path)
    return paths


def _value(metric: dict[str, Any] | None) -> str:
    if metric is None:
        return ""
    if metric["unit"] == "share":
        return f"{100 * metric['value']:.1f}" + ("" if metric["interval"] is None else f" ±{_half(metric, 100):.1f}")
    return f"{metric['value']:.3f}" + ("" if metric["interval"] is None else f" ±{_half(metric, 1):.3f}")


def _half(metric: dict[str, Any], factor: float) -> float:
    low, high = metric["interval"]
    return factor * (high - low) / 2


def _print(content: dict[str, Any]) -> None:
    rows, notes = [], []
    for name, found in content["suites"].items():
        metric = found["metrics"].get(found["headline"])
        chance = "" if found["chance"] is None else f"{found['chance']:.2f}"
        held = found["contamination"]
        seen = "not measured" if held is None else f"{held['items_held']} of {held['items']} in the corpus"
        rows.append([name, found["headline"], _value(metric), chance, str(found["n"]), seen])
        notes += [f"{name}: {note}" for note in found["notes"]]
        if spread := found["spread"].get(found["headline"]):
            notes.append(f"{name}: from {spread[0]:.3f} to {spread[1]:.3f} over {len(found['ways'])} ways to ask")
    _table(["suite", "metric", "score", "chance", "n", "contamination"], rows)
    for note in notes:
        print(note)
    for name, why in content["skipped"].items():
        print(f"{name}: skipped: {why}")
    if "compared" in content:
        print(f"against {content['compared']['with']}, the same items (p: adjusted for the number of suites)")
        _table(
            ["suite", "theirs", "this one", "difference", "95 % interval", "p", "n"],
            [
                [
                    name,
                    f"{row['first']:.4f}",
                    f"{row['second']:.4f}",
                    f"{row['difference']:+.4f}",
                    f"{row['interval'][0]:+.4f} to {row['interval'][1]:+.4f}",
                    f"{row['p_adjusted']:.3g}",
                    str(row["n"]),
                ]
                for name, row in content["compared"]["suites"].items()
            ],
        )


def _table(columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False, header_style="")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.width = max(console.width, 160) if not console.is_terminal else console.width
    console.print(table, markup=False)
