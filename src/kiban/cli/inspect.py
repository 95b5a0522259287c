"""`kiban corpus inspect`: a recipe on samples, in the terminal, as a page, or as JSON."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import write_atomic
from kiban.artifacts.progress import Progress
from kiban.cli.show import print_json
from kiban.corpus.inspection import Found, Inspection, Sample
from kiban.corpus.inspection import inspect as inspected
from kiban.corpus.quality import Rule, load_recipe, recipe_file
from kiban.corpus.stage import CorpusSettings
from kiban.programme import graph
from kiban.programme.settings import load

SHOWN = 160  # characters of a document in the terminal
PAGE_SHOWN = 1200  # and on the page


def inspect(
    folder: Annotated[Path, typer.Argument(help="A programme: a folder with a kiban.toml, or that file.")] = Path(),
    recipe: Annotated[
        str | None, typer.Option(help="A recipe, or a file of rules; the programme's without it.")
    ] = None,
    rule: Annotated[list[str] | None, typer.Option(help="Show this rule alone, by its reason.")] = None,
    source: Annotated[list[str] | None, typer.Option(help="Read this source alone.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Documents a rule and side.")] = 3,
    megabytes: Annotated[float, typer.Option(min=0.001, help="How much of each source is read.")] = 8.0,
    page: Annotated[Path | None, typer.Option("--html", help="Write a page, with more of each document.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What each rule of a recipe drops and what it keeps, side by side, nearest to its bound, with the scores.

    Nothing is built: change the bounds in a copy of the recipe and look again.

    Example: kiban corpus inspect recipes/demo --rule repetition --samples 5
    """
    programme = load(folder)
    [node] = [node for node in graph.nodes(programme) if node.name == "corpus"]
    assert isinstance(node.settings, CorpusSettings)
    rules = load_recipe(recipe_file(recipe or programme.corpus.recipe, programme.folder))
    reasons = list(dict.fromkeys(each.reason for each in rules.rule))
    names = [each.name for each in programme.sources]
    for option, wanted, known in (("--rule", rule, reasons), ("--source", source, names)):
        if unknown := sorted(set(wanted or ()) - set(known)):
            raise KibanError(f"{option} {unknown[0]}: there is none; there are {', '.join(known)}")
    chosen = [each for each in programme.sources if not source or each.name in source]
    found = inspected(chosen, node.settings, rules, megabytes, samples, Progress(quiet=as_json))
    shown = [each for each in found.rules if not rule or each.rule.reason in rule]
    if page:
        write_atomic(page, _page(found, shown, recipe or programme.corpus.recipe))
        print(page)
    elif as_json:
        print_json(asdict(found) | {"rules": [_plain(each) for each in shown]})
    else:
        _show(found, shown)


def bounds(rule: Rule) -> str:
    """What a rule asks for, such as `0.1 <= kana_share`."""
    text = rule.statistic
    if rule.at_least != float("-inf"):
        text = f"{rule.at_least:g} <= {text}"
    if rule.at_most != float("inf"):
        text = f"{text} <= {rule.at_most:g}"
    if rule.below is not None:
        text = f"{text} < {rule.below:g}"
    if rule.from_characters:
        text += f", from {rule.from_characters} characters on"
    if rule.except_registers:
        text += f", not for {', '.join(rule.except_registers)}"
    return text


def _plain(found: Found) -> dict[str, Any]:
    return asdict(found) | {"rule": {"reason": found.rule.reason, "asks": bounds(found.rule)}}


def _counts(found: Found) -> str:
    dropped = f"drops {found.first} documents ({found.characters:,} characters)"
    return f"{dropped}; {found.breaks} of the {found.judged} that it is for break it"


def _whole(found: Inspection) -> str:
    text = f"{found.documents} documents, {found.characters:,} characters; {found.kept} kept"
    return text + (f", {found.hosts} dropped for their host" if found.hosts else "")


def _show(found: Inspection, rules: list[Found]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print(_whole(found), highlight=False)
    for each in rules:
        console.print(f"\n[bold]{each.rule.reason}[/bold]: {bounds(each.rule)}", highlight=False)
        console.print(_counts(each), highlight=False)
        if not each.first:
            continue
        table = Table("dropped", "kept", box=None, expand=True, padding=(0, 2, 1, 0))
        for row in range(max(len(each.dropped), len(each.kept))):
            table.add_row(*(Text(_cell(side[row]) if row < len(side) else "") for side in (each.dropped, each.kept)))
        console.print(table)


def _cell(sample: Sample) -> str:
    document = sample.document
    title, text = (
        "".join(c if c.isprintable() else " " for c in whole[: 2 * SHOWN])  # no control of the terminal
        for whole in (document.title or document.uri, " ".join(document.text.split()))
    )
    return f"{sample.score:.4g}  {document.source}, {title}\n{text[:SHOWN]}{'…' if len(text) > SHOWN else ''}"


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ recipe }}</title>
<style>
 body { font: 15px/1.6 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
 .sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem 2rem; }
 article { border-left: 4px solid #4a7; padding-left: .8rem; }
 article.dropped { border-color: #c54; }
 article p { white-space: pre-wrap; max-height: 14rem; overflow: auto; margin: .2rem 0; }
 small, .asks { color: #666; }
</style>
<h1>{{ recipe }}</h1>
<p>{{ whole }}</p>
{% for found in rules %}
<h2 id="{{ found.rule.reason }}">{{ found.rule.reason }}</h2>
<p><span class="asks">{{ bounds(found.rule) }}</span><br>{{ counts(found) }}</p>
<div class="sides">
{% for name, side in (("dropped", found.dropped), ("kept", found.kept)) %}<section><h3>{{ name }}</h3>
{% for sample in side %}<article class="{{ name }}" lang="ja"><b>{{ "%.4g" | format(sample.score) }}</b>
<small>{{ sample.document.source }}, {{ sample.document.title }} {{ sample.document.uri }}</small>
<p>{{ sample.document.text[:shown] }}</p></article>
{% endfor %}</section>
{% endfor %}</div>
{% endfor %}</html>
"""


def _page(found: Inspection, rules: list[Found], recipe: str) -> str:
    from jinja2 import Environment, StrictUndefined

    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(PAGE)
    return template.render(
        recipe=recipe, whole=_whole(found), rules=rules, bounds=bounds, counts=_counts, shown=PAGE_SHOWN
    )
