"""What the training experiments share: the text, the windows that measure a model, and records, one file a run.

The text is that of `recipes/aozora`. Its held-back documents, whole authors, fall in two halves: settings are chosen on
`tune` and reported on `final`.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import record

from kiban.tokenizer.bpe import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "aozora"
CONTEXT = 512  # tokens of a window; the next one shares half of it
MOST_CHARACTERS = 4000  # of one held-back document
SCRATCH = RECIPE / ".kiban" / "experiments"


@dataclass(frozen=True)
class Text:
    tokens: Path  # a folder of packed tokens
    windows: dict[str, Path]  # of `tune` and `final`


def text() -> Text:
    """Makes what is missing of the recipe up to its tokens, and the windows."""
    kiban = [Path(sys.executable).with_name("kiban")]
    subprocess.run([*kiban, "run", RECIPE, "--to", "tokens"], check=True, stdout=subprocess.DEVNULL)
    status = subprocess.check_output([*kiban, "status", RECIPE, "--json"], text=True)
    paths = {stage["stage"]: stage["path"] for stage in json.loads(status)["stages"]}
    tokenizer = Tokenizer.load(Path(paths["tokenizer"]))
    documents = pq.read_table(Path(paths["corpus"]) / "held_back.parquet", columns=["id", "text"]).to_pylist()
    documents.sort(key=lambda document: document["id"])
    SCRATCH.mkdir(exist_ok=True)
    windows = {}
    for half, part in enumerate(("tune", "final")):
        windows[part] = SCRATCH / f"{part}-{Path(paths['tokenizer']).name[:16]}.npz"
        if not windows[part].is_file():
            _write_windows(windows[part], [document["text"] for document in documents[half::2]], tokenizer)
    return Text(Path(paths["tokens"]), windows)


def _write_windows(path: Path, texts: list[str], tokenizer: Tokenizer) -> None:
    """`tokens` [N, CONTEXT], filled up with 0; `fresh` [N]: how many tokens at the end of each row are not in the row
    before; `lengths` [N]; and the number of characters that all of them are."""
    rows, fresh = [], []
    for text in texts:
        ids = [tokenizer.bos_id, *tokenizer.encode(text[:MOST_CHARACTERS])]
        scored = 1
        for start in range(0, len(ids), CONTEXT // 2):
            stop = min(start + CONTEXT, len(ids))
            if stop > scored:
                rows.append(ids[start:stop])
                fresh.append(stop - scored)
                scored = stop
    tokens = np.zeros((len(rows), CONTEXT), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    lengths = np.array([len(row) for row in rows])
    characters = sum(len(text[:MOST_CHARACTERS]) for text in texts)
    np.savez(path, tokens=tokens, fresh=np.array(fresh), lengths=lengths, characters=characters)


def recorded(folder: Path, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The record of a run: read where there is one, else made and written."""
    path = folder / f"{name}.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    print(f"{folder.name}/{name}", flush=True)
    found = {**record.circumstances(), **make()}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, ensure_ascii=False) + "\n")
    return found


def curve(losses: list[float], points: int = 200) -> list[list[float]]:
    """[step, mean loss of the steps since the point before] at so many points at most."""
    every = -(-len(losses) // points)
    parts = [losses[i : i + every] for i in range(0, len(losses), every)]
    return [[min((i + 1) * every, len(losses)), round(sum(part) / len(part), 4)] for i, part in enumerate(parts)]
