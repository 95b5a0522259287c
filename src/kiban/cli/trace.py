"""`kiban trace`: from a sentence or a document id to its source, its terms, and the training steps that read it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from kiban.artifacts.errors import KibanError
from kiban.artifacts.store import Artifact
from kiban.cli.consumers import kept_checkpoints, order_of
from kiban.cli.show import print_json
from kiban.programme import graph, runner
from kiban.programme.settings import load

MOST = 20


def trace(
    what: Annotated[str, typer.Argument(metavar="TEXT|DOCUMENT_ID", help="A passage, or the id of a document.")],
    folder: Annotated[Path, typer.Option("--programme", help="The programme.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Where a passage came from, under which terms, and which training steps read it. Exit code 1 if it is not there.

    Example: kiban trace 安全靴を着用 --programme recipes/demo
    """
    if any("\ud800" <= character <= "\udfff" for character in what):
        raise KibanError("the passage is not UTF-8: no text of a corpus holds it; give it in the terminal's encoding")
    programme = load(folder)
    steps = runner.plan(graph.nodes(programme), graph.store_of(programme))
    made = {step.node.name: step.artifact for step in steps if step.artifact}
    if "corpus" not in made:
        raise KibanError(f"{programme.folder}: no corpus is made yet; `kiban run {folder} --to corpus` makes it")
    found = []
    for document in _found(made, what):
        found.append(document | _consumption(document["id"], made))
        if len(found) == MOST:
            break
    dropped = _dropped(made["corpus"], what)
    if as_json:
        print_json({"documents": found, "ledger": dropped})
    else:
        for document in found:
            _show(document)
        for row in dropped:
            print(f"{row['id']}  dropped: {row['reason']} ({row['detail']}); source {row['source']}, {row['uri']}")
    if not found and not dropped:
        if not as_json:
            print("not in this corpus: no document holds that passage or has that id")
        raise typer.Exit(1)


def _found(made: dict[str, Artifact], what: str) -> Iterator[dict[str, Any]]:
    """Documents with that id or passage: by the index of the packed tokens, where they are made, else by reading all
    text. What was held back is in no token and is always read."""
    if "tokens" not in made or "tokenizer" not in made:
        yield from _documents(made["corpus"], what)
        return
    from itertools import islice

    from kiban.tokenizer.bpe import Tokenizer
    from kiban.tokenizer.packing import TokenStore

    store = TokenStore.open(made["tokens"].path)
    if store.places_of([what]):
        yield from _documents(made["corpus"], what, [what])
        return
    ids = [place.id for place in islice(store.search(what, Tokenizer.load(made["tokenizer"].path)), MOST)]
    if ids:
        yield from _documents(made["corpus"], what, ids)
    yield from _documents(made["corpus"], what, held_back=True)


def _documents(
    corpus: Artifact, what: str, ids: list[str] | None = None, held_back: bool = False
) -> Iterator[dict[str, Any]]:
    """Documents of the corpus with that id or passage; of these `ids` where they are given; of the held-back
    ones alone, or of all."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    fields = ["id", "source", "partner", "licence", "uses", "residency", "title", "author", "uri", "register", "text"]
    kept = corpus.path / "held_back.parquet"
    for path in [kept] if held_back else [*sorted((corpus.path / "shards").glob("*.parquet")), kept]:
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            if ids is not None:
                here = pc.is_in(file.read_row_group(group, ["id"])["id"], pa.array(ids))
                if not pc.any(here).as_py():
                    continue
                rows = file.read_row_group(group, fields).filter(here)
            else:
                rows = file.read_row_group(group, fields)
                rows = rows.filter(pc.or_(pc.equal(rows["id"], what), pc.match_substring(rows["text"], what)))
            for row in rows.to_pylist():
                yield row | {"shard": path.name, "held_back": path.name == "held_back.parquet"}


def _dropped(corpus: Artifact, what: str) -> list[dict[str, Any]]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    ledger = pq.read_table(corpus.path / "ledger.parquet")
    return ledger.filter(pc.equal(ledger["id"], what)).to_pylist()


def _consumption(document_id: str, made: dict[str, Artifact]) -> dict[str, Any]:
    """Which optimiser steps of the programme's model read any token of the document."""
    if "tokens" not in made:
        return {"steps": [], "checkpoint": None}
    from kiban.tokenizer.packing import TokenStore

    tokens = TokenStore.open(made["tokens"].path)
    places = tokens.places_of([document_id])
    offset = places[0].start if places else None
    if not places or "model" not in made:
        model = made["model"].address if "model" in made else None
        return {"steps": [], "checkpoint": model, "token_offset": offset}
    steps = order_of(made["model"]).steps(places)
    return {
        "token_offset": offset,
        "tokens": places[0].length,
        "epochs": len(places),
        "token_shards": sorted({tokens.shard_of(at) for p in places for at in (p.start, p.start + p.length - 1)}),
        "steps": steps,
        "checkpoint": made["model"].address,
        "checkpoints": [step for step in kept_checkpoints(made["model"].path) if steps and step >= steps[0]],
    }


def _show(document: dict[str, Any]) -> None:
    print(f"{document['id']}  {document['title'] or document['uri']}")
    print(f"  source     {document['source']} (partner {document['partner']}), {document['uri']}")
    print(f"  terms      {document['licence']}; may be used to {', '.join(document['uses'])}; {document['shard']}")
    if document["held_back"]:
        print("  training   held back: no training step read it")
    elif document["checkpoint"] is None:
        print("  training   no model is trained yet")
    elif document["token_offset"] is None:
        print("  training   in no shard: the mixture left it out")
    elif document["steps"]:
        steps = ", ".join(str(step) for step in document["steps"][:12])
        more = f" and {len(document['steps']) - 12} more" if len(document["steps"]) > 12 else ""
        print(f"  training   read in step {steps}{more} of {document['checkpoint'][:19]}")
        shards = ", ".join(document["token_shards"])
        print(f"  tokens     {document['tokens']} from {document['token_offset']} on, in {shards}")
        if document["checkpoints"]:
            print(f"  kept in    checkpoints of steps {', '.join(map(str, document['checkpoints']))}")
    else:
        print(f"  training   in a shard, but not reached by {document['checkpoint'][:19]}")
