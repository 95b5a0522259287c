"""`kiban eval` as a person runs it."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import write_json
from kiban.cli.eval import app
from kiban.corpus.documents import document_schema
from tests.commands import KIBAN, kiban
from tests.evaluation import models
from tests.training import tiny


def said(*arguments: str | Path, **environment: str) -> str:
    """What `kiban eval` prints, run in this process."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def said_json(*arguments: str | Path) -> Any:
    return json.loads(said(*arguments, "--json"))


def error_of(*arguments: str | Path) -> str:
    with pytest.raises(KibanError) as error:
        said(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


QUESTION = "箱を運ぶ前に部品を数える人は、次に何をしますか"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.exported(tmp_path_factory.mktemp("models") / "model", max_position_embeddings=256)


def a_set(path: Path, number: int = 24) -> Path:
    rows = [
        {"q_id": i, "question": f"{QUESTION}（{i}）", "label": i % 5}
        | {f"choice{k}": text for k, text in enumerate(["数える", "<b>並べる</b>", "運ぶ", "調べる", "片付ける"])}
        for i in range(number)
    ]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def a_corpus(folder: Path, texts: list[str]) -> Path:
    (folder / "shards").mkdir(parents=True)

    def table(of: list[str]) -> pa.Table:
        columns = {"text": of, "id": [f"d{i}" for i in range(len(of))], "source": ["made"] * len(of)}
        empty = [columns.get(f.name, [[] if pa.types.is_list(f.type) else ""] * len(of)) for f in document_schema()]
        return pa.table([pa.array(c, f.type) for c, f in zip(empty, document_schema(), strict=True)], document_schema())

    pq.write_table(table(texts), folder / "shards" / "part-00000.parquet")
    pq.write_table(table(["部品を並べる前に箱を数える。" * 9]), folder / "held_back.parquet")
    held = {"id": "left-out", "set": "jcommonsenseqa", "text": f"{QUESTION}（7）"}
    pq.write_table(pa.Table.from_pylist([held]), folder / "contaminated.parquet")
    return folder


def test_a_run_prints_a_table_and_writes_results_and_a_page(folder: Path, tmp_path: Path) -> None:
    corpus = a_corpus(tmp_path / "corpus", ["関係のない文書。" * 9, f"前置き。{QUESTION}（3）。後書き。"])
    common = ["--set", f"jcommonsenseqa={a_set(tmp_path / 'set.json')}", "--cache", tmp_path / "cache"]
    asked = ["--suite", "jcommonsenseqa", "--suite", "bits-per-character", "--suite", "jnli", "--corpus", corpus]
    table = kiban("eval", "run", folder, *asked, *common, cwd=tmp_path, KIBAN_DATA="").stdout
    assert "jcommonsenseqa" in table and "1 of 24 in the corpus" in table and "jnli: skipped" in table
    results = json.loads((tmp_path / "evaluation" / "model" / "results.json").read_text("utf-8"))
    suite = results["suites"]["jcommonsenseqa"]
    assert suite["contamination"] == {"items_held": 1, "items": 24, "documents": 1, "documents_left_out": 1}
    assert suite["metrics"]["accuracy"]["n"] == 24 and len(suite["metrics"]["accuracy"]["interval"]) == 2
    assert results["suites"]["bits-per-character"]["metrics"]["made"]["n"] == 1
    items = (tmp_path / "evaluation" / "model" / "items.jsonl").read_text("utf-8").splitlines()
    assert len(items) == 25
    page = (tmp_path / "evaluation" / "model" / "index.html").read_text("utf-8")
    assert QUESTION in page and "<b>並べる" not in page and "default-src &#39;none&#39;" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")

    other = models.exported(tmp_path / "other", seed=3, max_position_embeddings=256)
    compared = said_json(
        "run", other, "--suite", "jcommonsenseqa", "--compare", tmp_path / "evaluation" / "model",
        "--out", tmp_path / "second", *common,
    )  # fmt: skip
    assert compared["compared"]["with"] == "model" and compared["compared"]["suites"]["jcommonsenseqa"]["n"] == 24
    both = said("run", other, "--suite", "jcommonsenseqa", "--compare", folder, "--out", tmp_path / "third", *common)
    assert "against model, the same items" in both and "95 % interval" in both
    third = json.loads((tmp_path / "third" / "results.json").read_text("utf-8"))
    assert third["compared"] == compared["compared"]


@pytest.mark.slow
def test_a_killed_run_goes_on(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    command = [KIBAN, "eval", "run", str(folder), "--suite", "jcommonsenseqa", "--cache", str(cache)]
    command += [
        "--set",
        f"jcommonsenseqa={a_set(tmp_path / 'set.json', 1200)}",
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not _answered(cache) and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = _answered(cache)
    assert before > 0
    done = json.loads(subprocess.run(command, capture_output=True, check=True, text=True, env=os.environ).stdout)
    assert done["suites"]["jcommonsenseqa"]["n"] == 1200
    command[command.index("--cache") + 1] = str(tmp_path / "other")
    whole = json.loads(subprocess.run(command, capture_output=True, check=True, text=True, env=os.environ).stdout)
    assert whole["suites"] == done["suites"]


def _answered(cache: Path) -> int:
    import sqlite3

    try:
        with sqlite3.connect(f"file:{cache}?mode=ro", uri=True) as known:
            return int(known.execute("SELECT count(*) FROM answers").fetchone()[0])
    except sqlite3.Error:
        return 0


def test_a_run_of_training_and_its_checkpoints_line_up(tmp_path: Path) -> None:
    """Checkpoints are scored as they are, and stand in the table by the tokens that they were trained on."""
    tiny.run(tmp_path / "run", save_every_seconds=1e-9, keep_checkpoints=100)
    checkpoints = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert len(checkpoints) > 1
    common = ["--suite", "jcommonsenseqa", "--set", f"jcommonsenseqa={a_set(tmp_path / 'set.json', 6)}"]
    common += ["--cache", tmp_path / "cache", "--tokenizer", tmp_path / "run" / "tokens"]
    for checkpoint in (checkpoints[-1], checkpoints[0]):
        said("run", checkpoint, *common, "--out", tmp_path / checkpoint.name)
    board = said_json("leaderboard", *(tmp_path / c.name for c in (checkpoints[-1], checkpoints[0])))
    steps = [int(c.name.split("-")[1]) for c in (checkpoints[0], checkpoints[-1])]
    assert [row["tokens"] for row in board["rows"]] == [step * 4 * 32 for step in steps]
    assert board["suites"] == ["jcommonsenseqa"] and board["not_comparable"] == []
    assert "jcommonsenseqa" in said("leaderboard", tmp_path / checkpoints[0].name)
    page = tmp_path / "board.html"
    said("leaderboard", *(tmp_path / c.name for c in (checkpoints[-1], checkpoints[0])), "--html", page)
    text = page.read_text("utf-8")
    assert text.count("<polyline") == 3 and text.count('class="tick"') >= 4  # the score and its interval


def test_list_says_what_each_suite_is(kiban_data: Path) -> None:
    rows = {row["name"]: row for row in said_json("list")}
    assert rows["jcommonsenseqa"]["items"] == 1119 and rows["jcommonsenseqa"]["licence"] == "CC-BY-SA-4.0"
    assert rows["jaquad"]["items"] is None
    here = said("list", KIBAN_DATA="")
    assert "jmmlu" in here and "not here" in here


def test_wrong_calls_are_one_line(folder: Path, tmp_path: Path) -> None:
    assert "there is no such folder" in error_of("run", tmp_path / "nothing")
    assert "no config.json" in error_of("run", tmp_path)
    assert "give a model's folder, or --endpoint" in error_of("run")
    assert "no such suite" in error_of("run", folder, "--suite", "nothing")
    assert "give SUITE=PATH" in error_of("run", folder, "--set", "keigo")
    kept = ["--limit", "2", "--cache", tmp_path / "cache", "--out", tmp_path / "out"]
    said("run", folder, "--suite", "josuushi", "--tokens", "1000", *kept)
    assert said_json("leaderboard", tmp_path / "out")["rows"][0]["tokens"] == 1000
    assert "no item was asked of both" in error_of(
        "run", folder, "--suite", "joshi", "--compare", tmp_path / "out", *kept
    )
    assert "holds no results.json" in error_of("leaderboard", tmp_path)
    assert "no corpus" in error_of("run", folder, "--suite", "keigo", "--corpus", tmp_path)
    broken = tmp_path / "broken"
    models.exported(broken, vocab_size=400)
    assert "vocabulary of 400" in error_of("run", broken, "--suite", "keigo", "--cache", tmp_path / "cache")
    write_json(broken / "config.json", {"model_type": "nothing-known"})
    (broken / "tokenizer.json").unlink()
    assert "transformers cannot load it" in error_of("run", broken, "--suite", "keigo")
