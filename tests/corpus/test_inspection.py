from pathlib import Path

import pytest

from kiban.artifacts.progress import Progress
from kiban.cli.inspect import _page, _show, bounds
from kiban.corpus.inspection import Inspection, inspect
from kiban.corpus.quality import Recipe, Rule
from kiban.corpus.stage import CorpusSettings
from tests.corpus.building import build, ledger, sentences, source_of, write_jsonl

RECIPE = """
[[rule]]
reason = "short"
statistic = "characters"
at_least = 20

[[rule]]
reason = "digits"
statistic = "digit_share"
at_most = 0.2
except_registers = ["tables"]
"""


def inspected(tmp_path: Path, **options: float) -> Inspection:
    from kiban.corpus.quality import load_recipe

    (tmp_path / "own.toml").write_text(RECIPE)
    texts = [
        *sentences(20),
        *("あ" * n for n in range(10, 30)),
        *(f"数は{'7' * n}でした、{'と' * 30}" for n in range(5, 25)),
    ]
    titled = [
        {"text": t, "title": f"<b>題{n}\x1b[31m", "register": "tables" if n == 50 else ""} for n, t in enumerate(texts)
    ]
    source = source_of("own", write_jsonl(tmp_path / "own.jsonl", titled), "jsonl")
    settings = CorpusSettings(folder=str(tmp_path), withdrawn=("uri:own.jsonl#1",))
    recipe = load_recipe(tmp_path / "own.toml")
    given = {"megabytes": 8.0, "samples": 3} | options
    found = inspect([source], settings, recipe, given["megabytes"], int(given["samples"]), Progress(quiet=True))
    corpus = build(tmp_path / "store", [source], hold_back=0, recipe="own.toml", withdrawn=["uri:own.jsonl#1"])
    if "megabytes" not in options:  # what is shown is what a build would do
        counts = [row["reason"] for row in ledger(corpus)]
        assert [counts.count(each.rule.reason) for each in found.rules] == [each.first for each in found.rules]
    return found


def test_what_a_rule_drops_and_keeps_stands_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "own.toml").write_text(RECIPE)
    found = inspected(tmp_path)
    short, digits = found.rules
    assert found.documents == 59 and found.kept == found.documents - short.first - digits.first
    assert (short.judged, short.breaks, short.first, short.characters) == (59, 10, 10, sum(range(10, 20)))
    assert [sample.score for sample in short.dropped] == [19, 18, 17]
    assert [sample.score for sample in short.kept] == [20, 21, 22]
    assert digits.judged == 58 and 0 < digits.first < 20
    scores = [sample.score for sample in digits.dropped]
    assert scores == sorted(scores) and scores[0] > 0.2
    assert all(sample.score <= 0.2 for sample in digits.kept) and digits.kept[0].score > 0.15
    assert all(sample.document.register != "tables" for sample in digits.kept + digits.dropped)


def test_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "own.toml").write_text(RECIPE)
    monkeypatch.setenv("COLUMNS", "120")
    found = inspected(tmp_path)
    _show(found, found.rules)
    shown = capsys.readouterr().out
    assert "short: 20 <= characters" in shown and "19  own, <b>題" in shown and "\x1b[31m" not in shown
    page = _page(found, found.rules, "own.toml")
    assert "&lt;b&gt;題" in page and "<b>題" not in page and page.count("<article") == 12


def test_no_more_is_read_than_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kiban.corpus import pieces

    monkeypatch.setattr(pieces, "PIECE_BYTES", 2_000)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "own.toml").write_text(RECIPE)
    assert 0 < inspected(tmp_path, megabytes=0.001).documents < 30


def test_bounds_in_words() -> None:
    rule = Rule(reason="x", statistic="s", at_least=0.1, at_most=0.5, from_characters=100, except_registers=("legal",))
    assert bounds(rule) == "0.1 <= s <= 0.5, from 100 characters on, not for legal"
    assert bounds(Rule(reason="x", statistic="s", below=2)) == "s < 2"
    assert Recipe.model_validate({"folder": ".", "rule": [rule]}).rule[0] == rule
