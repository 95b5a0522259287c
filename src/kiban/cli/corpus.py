"""`kiban corpus`: the rooms of the data steward: rights, withdrawal, what is owed, what was left out and why."""

import datetime
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json
from kiban.artifacts.rights import LICENCE_ADDRESSES, NOTICES, meet
from kiban.artifacts.store import Artifact
from kiban.cli.consumers import Consumers, copies
from kiban.cli.inspect import inspect
from kiban.cli.show import print_json
from kiban.corpus.mixture import MixSettings, plan, sizes
from kiban.corpus.selection import selection
from kiban.corpus.sources import all_terms
from kiban.corpus.withdrawals import WITHDRAWN
from kiban.corpus.withdrawals import withdraw as record
from kiban.programme import graph, runner
from kiban.programme.settings import Programme, load, resolve

app = typer.Typer(
    help="Rights, withdrawal, mixing and tuning of a corpus.", no_args_is_help=True, rich_markup_mode=None
)

Folder = Annotated[Path, typer.Argument(help="A programme: a folder with a kiban.toml, or that file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SOON = datetime.timedelta(days=90)
app.command()(inspect)


def made(programme: Programme) -> dict[str, Artifact]:
    """Stage -> artifact, of those that are made."""
    steps = runner.plan(graph.nodes(programme), graph.store_of(programme))
    return {step.node.name: step.artifact for step in steps if step.artifact}


def made_corpus(programme: Programme) -> Artifact:
    """Raises KibanError if there is none yet."""
    corpus = made(programme).get("corpus")
    if corpus is None:
        folder = programme.folder
        raise KibanError(f"{folder}: no corpus is made yet as it is set; `kiban run {folder} --to corpus` makes it")
    return corpus


@app.command()
def ledger(folder: Folder = Path(), as_json: AsJson = False) -> None:
    """Who gave what, under which terms, and what became of it; then what the whole may be used for.

    Example: kiban corpus ledger recipes/demo
    """
    programme = load(folder)
    found = made(programme) if _plannable(programme) else {}
    counts = read_json(found["corpus"].path / "summary.json")["sources"] if "corpus" in found else {}
    rows = []
    gone = selection(programme.corpus.withdrawn).sources
    for source in programme.sources:
        terms = all_terms(source)
        row: dict[str, Any] = {"source": source.name, "partner": source.partner, "licence": source.licence}
        row |= terms[0].model_dump(mode="json") | {"documents": counts.get(source.name)}
        row["withdrawn"] = source.name in gone
        row["overrides"] = [
            own.model_dump(mode="json", include={"documents", "uris", "hosts"}, exclude_defaults=True)
            | {"licence": own.licence or source.licence}
            | rights.model_dump(mode="json")
            for own, rights in zip(source.overrides, terms[1:], strict=True)
        ]
        rows.append(row)
    whole = found["corpus"].rights if "corpus" in found else meet(t for s in programme.sources for t in all_terms(s))
    withdrawn = list(programme.corpus.withdrawn)
    if as_json:
        print_json({"sources": rows, "whole": whole.model_dump(mode="json"), "withdrawn": withdrawn})
        return
    for row in rows:
        print(f"{row['source']}: {row['licence']}, given by {row['partner']}{', WITHDRAWN' * row['withdrawn']}")
        _show_terms(row)
        for own in row["overrides"]:
            meant = [f"{kind} {', '.join(own[kind])}" for kind in ("documents", "uris", "hosts") if kind in own]
            print(f"  but {'; '.join(meant)}: {own['licence']}")
            _show_terms(own, "    ")
        if row["documents"]:
            _show_counts(row["documents"])
    print("\nthe whole" + ("" if "corpus" in found else " (of all sources: no corpus is made yet)"))
    _show_terms(whole.model_dump(mode="json"))
    if withdrawn:
        print(f"  withdrawn    {', '.join(withdrawn)}")


def _plannable(programme: Programme) -> bool:
    """Whether the programme can be planned: its terms are to be seen even where they forbid what it is for."""
    try:
        runner.plan(graph.nodes(programme), graph.store_of(programme))
    except KibanError as error:
        print(f"note: {error}\n")
        return False
    return True


def _show_terms(terms: dict[str, Any], margin: str = "  ") -> None:
    if terms["constraints"]:
        print(f"{margin}DENIED       by {', '.join(terms['constraints'])}: nobody has said that it is met")
    print(
        f"{margin}may be used  to {', '.join(terms['uses']) or 'do nothing'}; kept in {', '.join(terms['residency'])}"
    )
    if terms["expires"]:
        left = datetime.date.fromisoformat(terms["expires"]) - datetime.date.today()
        soon = "OVER" if left.days < 0 else f"{left.days} days left" if left <= SOON else ""
        print(f"{margin}until        {terms['expires']}" + (f" ({soon})" if soon else ""))
    if terms["obligations"]:
        print(f"{margin}owed         {', '.join(terms['obligations'])}")


def _show_counts(counts: dict[str, Any]) -> None:
    dropped = ", ".join(f"{n} {reason}" for reason, n in Counter(counts["dropped"]).most_common(6)) or "nothing"
    print(
        f"  documents    {counts['documents_in']} in, {counts['documents_kept']} kept, "
        f"{counts['documents_held_back']} held back; left out: {dropped}"
    )


@app.command()
def attributions(
    folder: Folder = Path(),
    documents: Annotated[bool, typer.Option(help="Each work of each source too: title, author, address.")] = False,
    notices: Annotated[bool, typer.Option(help="The texts that licences want to be passed on too.")] = False,
    as_json: AsJson = False,
) -> None:
    """What the licences of the sources ask to be printed wherever the corpus, or a model of it, is passed on.

    Only sources that have a document in the corpus are named.

    Example: kiban corpus attributions recipes/demo
    """
    programme = load(folder)
    corpus = made_corpus(programme)
    counts = read_json(corpus.path / "summary.json")["sources"]
    owed = _owed(corpus)
    rows = []
    for source in programme.sources:
        if not counts[source.name]["documents_kept"] + counts[source.name]["documents_held_back"]:
            continue
        for licence, duties in sorted(owed.get(source.name, {}).items()):
            names = [duty.partition(":")[2] for duty in duties if duty.startswith("attribution:")]
            if not names and licence not in NOTICES:
                continue
            asked = [name for name in names if name != source.name]
            row: dict[str, Any] = {
                "source": source.name,
                "text": source.attribution or "; ".join(asked) or f"{source.name} ({source.partner})",
                "licence": licence,
                "address": LICENCE_ADDRESSES.get(licence, ""),
                "share_alike": sorted(d.partition(":")[2] for d in duties if d.startswith("share-alike:")),
                "others": sorted(d for d in duties if not d.startswith(("attribution:", "share-alike:"))),
            }
            if licence in NOTICES:
                row["notice"] = _notice(source.notice, programme, source.name)
            if documents:
                row["documents"] = _works(corpus, source.name, licence)
            rows.append(row)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print(f"{row['text']}. {row['licence']}{', ' + row['address'] if row['address'] else ''}.")
        if row["share_alike"]:
            print(f"  What is made of it and passed on comes under {', '.join(row['share_alike'])}.")
        if row["others"]:
            print(f"  Also asked for: {', '.join(row['others'])}.")
        for work in row.get("documents", []):
            print("  - " + ", ".join(work[key] for key in ("title", "author", "uri") if work[key]))
        if "notice" in row:
            if not row["notice"]:
                print("  Its text is to be passed on: name the file as `notice` of the source.")
            elif notices:
                print("\n" + row["notice"].rstrip() + "\n")
            else:
                print("  Its text is to be passed on: --notices prints it.")
    if not rows:
        print("no licence of the sources asks to be printed")


def _documents(corpus: Artifact, columns: list[str]) -> Any:
    import pyarrow.parquet as pq

    for path in [*sorted((corpus.path / "shards").glob("*.parquet")), corpus.path / "held_back.parquet"]:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(columns=columns)


def _owed(corpus: Artifact) -> dict[str, dict[str, set[str]]]:
    """Source -> licence -> the obligations of its documents in the corpus."""
    owed: dict[str, dict[str, set[str]]] = {}
    for batch in _documents(corpus, ["source", "licence", "obligations"]):
        seen = set()
        for source, licence, duties in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if (key := (source, licence, *duties)) not in seen:
                seen.add(key)
                owed.setdefault(source, {}).setdefault(licence, set()).update(duties)
    return owed


def _works(corpus: Artifact, source: str, licence: str) -> list[dict[str, str]]:
    columns = ["title", "author", "uri"]
    works = []
    for batch in _documents(corpus, [*columns, "source", "licence"]):
        works += [
            {column: row[column] for column in columns}
            for row in batch.to_pylist()
            if row["source"] == source and row["licence"] == licence
        ]
    return works


def _notice(written: str | None, programme: Programme, source: str) -> str:
    if written is None:
        return ""
    path = resolve(written, programme.folder, f"source '{source}': notice")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KibanError(f"source '{source}': notice: {path} cannot be read ({error}); correct the path") from None


@app.command("plan")
def plan_(folder: Folder = Path(), as_json: AsJson = False) -> None:
    """How much of which source, register and language is read how often: before anything is mixed or trained.

    Sizes are known once the corpus is made; before that, those of the files are shown.

    Example: kiban corpus plan recipes/demo
    """
    programme = load(folder)
    found = made(programme)
    if "corpus" not in found:
        sources = {
            s.name: found[f"source.{s.name}"].metrics["source.bytes"].value if f"source.{s.name}" in found else None
            for s in programme.sources
        }
        if as_json:
            print_json({"sources": sources})
            return
        for name, size in sources.items():
            print(f"{name}: {'not looked at yet' if size is None else f'{size / 1e6:.1f} MB of files'}")
        print(f"what is left of them is known after `kiban run {folder} --to corpus`; run this command again then")
        return
    rows = plan(sizes(found["corpus"].path), programme.mix or MixSettings())
    read = sum(row.characters * row.epochs for row in rows)
    metrics = found["tokenizer"].metrics if "tokenizer" in found else {}
    a_token = metrics["tokenizer.characters_per_token"].value if metrics else None
    times = programme.training.tokens * a_token / read if a_token else None
    if as_json:
        print_json({"rows": [vars(row) for row in rows], "characters": read, "times": times})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("source", "register", "language", box=None)
    for head in ("documents", "characters", "epochs", "share"):
        table.add_column(head, justify="right")
    for row in rows:
        names = (row.source, row.register or "-", row.language)
        table.add_row(*names, f"{row.documents:,}", f"{row.characters:,}", f"{row.epochs:.2f}", f"{row.share:.2%}")
    Console().print(table)
    print(f"in all {read:,.0f} characters" + ("" if programme.mix else "; no [mix]: everything is read as it is"))
    if times is not None and a_token is not None:
        print(f"[training] reads {programme.training.tokens * a_token:,.0f} characters: {times:.2f} times all of it")


@app.command()
def contamination(folder: Folder = Path(), as_json: AsJson = False) -> None:
    """How much of each evaluation set the sources held, and in which documents; all of them were left out.

    Example: kiban corpus contamination recipes/demo
    """
    import pyarrow.parquet as pq

    corpus = made_corpus(load(folder))
    sets = read_json(corpus.path / "decontamination.json")["sets"]
    rows = pq.read_table(corpus.path / "contaminated.parquet").to_pylist()
    if as_json:
        print_json({"sets": sets, "documents": rows})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("set", "items", "looked for", "held by sources", "documents", box=None)
    for name, counts in sorted(sets.items()):
        table.add_row(name, *(str(counts[key]) for key in ("items", "looked_for", "held", "documents")))
    Console().print(table)
    shown: Counter[str] = Counter()
    for row in rows:
        shown[row["set"]] += 1
        if shown[row["set"]] <= 3:
            held = f"{row['set']}, item {row['item']}: 「{row['text'][:60]}」"
            print(f"{held} in {row['source']}, {row['uri']} ({row['id']})")
    if len(rows) > sum(min(n, 3) for n in shown.values()):
        print(f"all {len(rows)} of them: {corpus.path / 'contaminated.parquet'}")


@app.command()
def withdraw(
    folder: Folder = Path(),
    source: Annotated[list[str] | None, typer.Option(help="A source, by its name. May be given again.")] = None,
    document: Annotated[list[str] | None, typer.Option(help="A document, by its id.")] = None,
    uri: Annotated[list[str] | None, typer.Option(help="An address; * stands for any characters.")] = None,
    host: Annotated[list[str] | None, typer.Option(help="A host, with those below it.")] = None,
    reason: Annotated[str, typer.Option(help="For the record.")] = "",
    runs: Annotated[list[Path] | None, typer.Option("--run", help="A training run outside the programme too.")] = None,
    only_list: Annotated[bool, typer.Option("--only-list", help="Say who consumed it, and withdraw nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Takes something out: the next build leaves it out. Says which artifacts consumed it.

    Of a trained model it says whether a step read it (consumed), whether it is packed but not read yet, or whether it
    stands on a checkpoint that did.

    Example: kiban corpus withdraw mine --host example.jp --reason "asked by its owner"
    """
    given = (("source", source), ("document", document), ("uri", uri), ("host", host))
    what = [f"{kind}:{value}" for kind, values in given for value in values or ()]
    if not what:
        raise KibanError("say what is withdrawn: --source, --document, --uri or --host")
    programme = load(folder)
    consumers = Consumers(graph.store_of(programme), selection(what), runs or ())
    found = consumers.all()
    documents = {i: row for a in consumers.asked.values() for i, row in (a.kept | a.held_back | a.left_out).items()}
    twins = {
        row["id"]: row
        for artifact in consumers.artifacts
        if artifact.kind == "corpus" and (kept := consumers.asked[artifact.address]).kept
        for row in copies(artifact, [*kept.kept, *kept.held_back])
        if row["id"] not in documents
    }
    names = {s.name for s in programme.sources} | {row["source"] for row in documents.values()}
    if unknown := sorted(set(source or ()) - names):
        raise KibanError(f"--source {unknown[0]}: no source has that name; there are {', '.join(sorted(names))}")
    added = [] if only_list else record(programme.folder, what, reason)
    if as_json:
        print_json(
            {
                "withdrawn": [] if only_list else what,
                "documents": [{"id": i, "source": r["source"], "uri": r["uri"]} for i, r in documents.items()],
                "copies": [{"id": i, "source": r["source"], "uri": r["uri"]} for i, r in twins.items()],
                "artifacts": [vars(consumer) for consumer in found],
            }
        )
        return
    told = "not withdrawn (--only-list)" if only_list else "withdrawn" if added else "withdrawn before"
    print(f"{', '.join(what)}: {told}; {len(documents)} documents are known by it")
    for consumer in found:
        print(f"  {consumer.relation:26} {consumer.name}  {consumer.address[:19]}  {consumer.detail}")
    if not found:
        print("  no artifact has consumed it")
    if twins:
        print(f"{len(twins)} documents were left out as copies of it, and come in with the next build; such as:")
        for row in [*twins.values()][:5]:
            print(f"  {row['id']}  {row['source']}, {row['uri']}")
    if not only_list:
        print(f"recorded in {programme.folder / WITHDRAWN}; the next `kiban run` builds without it")
