"""A folder of results: results.json, items.jsonl (a line for every item), and who was asked when."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_atomic

RESULTS, ITEMS = "results.json", "items.jsonl"


def write_items(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read(folder: Path) -> dict[str, Any]:
    """Raises KibanError if there are no results."""
    if not (folder / RESULTS).is_file():
        raise KibanError(f"{folder}: holds no {RESULTS}; give a folder that `kiban eval run` wrote")
    found = read_json(folder / RESULTS)
    if not isinstance(found, dict) or "suites" not in found:
        raise KibanError(f"{folder / RESULTS}: no results of an evaluation; run it again")
    return found


def read_items(folder: Path) -> list[dict[str, Any]]:
    """Raises KibanError if there are none."""
    try:
        lines = (folder / ITEMS).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise KibanError(f"{folder / ITEMS}: cannot be read ({error}); run the evaluation again") from None


def leaderboard(folders: Iterable[Path]) -> dict[str, Any]:
    """Results of several models side by side, in order of the tokens that they were trained on.

    Raises:
        KibanError: if a folder holds no results.
    """
    rows: list[dict[str, Any]] = []
    for folder in folders:
        found = read(folder)
        model = found.get("model", {"name": folder.name, "tokens_trained": None})
        scores = {
            name: {**suite["metrics"][suite["headline"]], "metric": suite["headline"], "ways": _ways(suite)}
            for name, suite in found["suites"].items()
            if suite["headline"] in suite["metrics"]
        }
        rows.append(
            {"folder": str(folder), "model": model["name"], "tokens": model["tokens_trained"], "scores": scores}
        )
    rows.sort(key=lambda row: (row["tokens"] is None, row["tokens"] or 0))
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    differing = [
        name
        for name in names
        if len({(row["scores"][name]["n"], str(row["scores"][name]["ways"])) for row in rows if name in row["scores"]})
        > 1
    ]
    return {"suites": names, "rows": rows, "not_comparable": differing}


def _ways(suite: Mapping[str, Any]) -> list[list[Any]]:
    return [[way["prompt"], way["shots"], way["seed"], suite["version"]] for way in suite["ways"]]
