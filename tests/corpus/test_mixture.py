from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.artifacts.store import Artifact
from kiban.corpus.mixture import Cell, MixSettings, Row, Size, mixture, plan, sizes
from tests.corpus.building import build, kept, sentences, source_of, write_jsonl

SIZES = {
    Cell("aozora", "literary", "ja"): Size(100, 600_000),
    Cell("law", "legal", "ja"): Size(50, 300_000),
    Cell("manual", "technical", "en"): Size(10, 20_000),
    Cell("manual", "technical", "ja"): Size(40, 80_000),
}


def planned(**settings: Any) -> dict[str, float]:
    """Group -> characters read."""
    rows = plan(SIZES, MixSettings.model_validate(settings))
    found: Counter[str] = Counter()
    for row in rows:
        found[getattr(row, settings.get("by", "source"))] += row.characters * row.epochs
    assert sum(row.share for row in rows) == pytest.approx(1)
    return dict(found)


def test_without_more_everything_is_read_once() -> None:
    assert {row.epochs for row in plan(SIZES, MixSettings())} == {1.0}


def test_fixed_shares() -> None:
    read = planned(by="register", shares={"literary": 0.5, "legal": 0.3, "technical": 0.2}, characters=1_000_000)
    assert read == pytest.approx({"literary": 500_000, "legal": 300_000, "technical": 200_000})
    read = planned(by="language", shares={"ja": 1, "en": 0})
    assert read == pytest.approx({"ja": 1_000_000, "en": 0})


def test_temperature_makes_small_groups_larger() -> None:
    flat, as_is = planned(temperature=2.0), planned(temperature=1.0)
    assert as_is == pytest.approx({"aozora": 600_000, "law": 300_000, "manual": 100_000})
    root = {name: size**0.5 for name, size in as_is.items()}
    assert flat == pytest.approx({name: 1e6 * r / sum(root.values()) for name, r in root.items()})
    assert planned(temperature=2.0, characters=100_000)["law"] == pytest.approx(flat["law"] / 10)


def test_what_a_group_cannot_give_the_others_give() -> None:
    read = planned(temperature=100.0, most_epochs=1.5)
    assert read["manual"] == pytest.approx(150_000) and sum(read.values()) == pytest.approx(1_000_000)
    assert read["law"] == pytest.approx(425_000, rel=0.01) and read["aozora"] == pytest.approx(425_000, rel=0.01)


def test_epochs_of_a_source() -> None:
    assert planned(epochs={"manual": 3, "law": 0}) == pytest.approx({"aozora": 600_000, "law": 0, "manual": 300_000})
    read = planned(by="language", epochs={"manual": 2}, shares={"ja": 0.5, "en": 0.5}, characters=120_000)
    assert read["en"] == pytest.approx(60_000)


@given(
    st.floats(1, 50),
    st.floats(0.5, 6),
    st.dictionaries(st.sampled_from(["aozora", "law", "manual"]), st.floats(0.1, 3)),
)
def test_no_group_is_read_too_often_and_the_total_is_kept(
    temperature: float, most: float, epochs: dict[str, float]
) -> None:
    try:
        rows = plan(SIZES, MixSettings(temperature=temperature, most_epochs=most, epochs=epochs))
    except KibanError as error:
        assert "are more than" in str(error)
        return
    assert all(row.epochs <= most * (1 + 1e-9) for row in rows)
    asked = sum(size.characters * epochs.get(cell.source, 1) for cell, size in SIZES.items())
    assert sum(row.characters * row.epochs for row in rows) == pytest.approx(asked)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"shares": {"aozora": 0.5, "law": 0.5}}, "source 'manual' has none"),
        ({"shares": {"aozora": 0.5, "novels": 0.5}}, "the corpus has no source 'novels'"),
        ({"epochs": {"novels": 2}}, "no source 'novels'; there are aozora, law, manual"),
        ({"shares": {"aozora": 0.1, "law": 0.0, "manual": 0.9}}, "2.2 times as often .* set characters = 444444"),
        ({"characters": 9_000_000}, "more than the 4000000"),
        ({"epochs": {"aozora": 0, "law": 0, "manual": 0}}, "nothing is read"),
        (
            {"epochs": {"law": 0}, "shares": {"aozora": 0.5, "law": 0.1, "manual": 0.4}},
            "'law' has a share, and epochs of 0",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(KibanError, match=expected):
        plan(SIZES, MixSettings.model_validate(settings))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"shares": {"a": 0.5}}, "the `shares` are 0.5 together"),
        ({"shares": {"a": 1.0}, "temperature": 2.0}, "take one out"),
        ({"epochs": {"a": -1}}, "'a' is less than nothing"),
        ({"by": "author"}, "by"),
    ],
)
def test_mistakes_in_settings(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        MixSettings.model_validate(settings)


def mixed(corpus: Artifact, out: Path, **settings: Any) -> list[dict[str, Any]]:
    out.mkdir(exist_ok=True)
    mixture.function(MixSettings.model_validate(settings), corpus=corpus, out=out, progress=Progress(quiet=True))
    return [row for path in sorted((out / "shards").iterdir()) for row in pq.read_table(path).to_pylist()]


def test_documents_are_taken_as_often_as_planned(tmp_path: Path) -> None:
    english = "The quick brown fox is in the house with all of the other animals, and it will not come out again. " * 2
    a = source_of("a", write_jsonl(tmp_path / "a.jsonl", [{"text": t} for t in sentences(200)]), "jsonl", register="x")
    rows = [*({"text": t} for t in sentences(20, 500)), {"text": english + "これは英語の例文です、と書いてある。"}]
    b = source_of("b", write_jsonl(tmp_path / "b.jsonl", rows), "jsonl")
    recipe = tmp_path / "all.toml"
    recipe.write_text('[[rule]]\nreason = "empty"\nstatistic = "characters"\nat_least = 1\n')
    corpus = build(tmp_path / "store", [a, b], hold_back=0, recipe=str(recipe))
    assert set(sizes(corpus.path)) == {Cell("a", "x", "ja"), Cell("b", "", "ja"), Cell("b", "", "en")}
    taken = mixed(corpus, tmp_path / "mix", epochs={"a": 1.5, "b": 3})
    times = Counter(row["id"] for row in taken)
    of = {row["id"]: row["source"] for row in kept(corpus)}
    assert {times[i] for i in of if of[i] == "b"} == {3}
    half = [times[i] for i in of if of[i] == "a"]
    assert set(half) == {1, 2} and 70 < half.count(2) < 130
    first = [row["id"] for row in taken[: len(of)]]
    assert sorted(first) == sorted(of)  # no document is read again before all are read once
    names = sorted(path.name for path in (tmp_path / "mix" / "shards").iterdir())
    before = {name: (tmp_path / "mix" / "shards" / name).read_bytes() for name in names}
    (tmp_path / "mix" / "shards" / names[-1]).unlink()
    mixed(corpus, tmp_path / "mix", epochs={"a": 1.5, "b": 3})  # a run that was killed goes on
    assert {name: (tmp_path / "mix" / "shards" / name).read_bytes() for name in names} == before


def test_a_row_says_what_is_planned() -> None:
    row = plan(SIZES, MixSettings(epochs={"law": 2}))[1]
    assert row == Row("law", "legal", "ja", 50, 300_000, 2.0, pytest.approx(600 / 1300))
