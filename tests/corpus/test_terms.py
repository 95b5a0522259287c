"""Terms of single documents, constraints, and what is withdrawn."""

import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kiban.artifacts.errors import KibanError
from kiban.corpus.selection import host_of, selection
from kiban.corpus.sources import SourceSettings, all_terms, terms
from kiban.corpus.stage import CorpusSettings, expired
from tests.corpus.building import build, kept, ledger, sentences, source_of, write_jsonl


def pages(tmp_path: Path) -> Path:
    """Ten documents of three hosts, under addresses of their own."""
    hosts = ["a.example.jp"] * 4 + ["blog.b.example.jp"] * 3 + ["c.example.com"] * 3
    records = [
        {"text": text, "url": f"https://{host}/{n}"}
        for n, (host, text) in enumerate(zip(hosts, sentences(10), strict=True))
    ]
    return write_jsonl(tmp_path / "pages.jsonl", records)


def source(tmp_path: Path, *overrides: dict[str, Any], **settings: Any) -> SourceSettings:
    return source_of("web", pages(tmp_path), "jsonl", override=overrides, **settings)


def uris(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(row["uri"].removeprefix("https://") for row in rows)


def test_a_document_has_its_own_terms(tmp_path: Path) -> None:
    free = {"hosts": ["b.example.jp"], "licence": "CC0-1.0", "uses": ["pretrain", "serve"], "residency": ["JP"]}
    made = build(tmp_path / "store", [source(tmp_path, free, licence="CC-BY-4.0")], hold_back=0)
    rows = {row["uri"].rpartition("/")[2]: row for row in kept(made)}
    assert rows["0"]["licence"] == "CC-BY-4.0" and rows["0"]["obligations"] == ["attribution:web"]
    assert rows["0"]["uses"] == ["evaluate", "pretrain"] and rows["0"]["residency"] == ["*"]
    assert rows["5"]["licence"] == "CC0-1.0" and rows["5"]["obligations"] == []
    assert rows["5"]["uses"] == ["pretrain", "serve"] and rows["5"]["residency"] == ["JP"]
    assert made.rights.uses == {"pretrain"} and made.rights.residency == {"JP"}
    assert made.rights.obligations == {"attribution:web"}


def test_a_document_that_grants_too_little_stays_out(tmp_path: Path) -> None:
    closed = {"uris": ["https://a.example.jp/*"], "uses": ["evaluate"]}
    made = build(tmp_path / "store", [source(tmp_path, closed)], hold_back=0)
    assert uris(kept(made)) == [
        *(f"blog.b.example.jp/{n}" for n in (4, 5, 6)),
        *(f"c.example.com/{n}" for n in (7, 8, 9)),
    ]
    assert {(row["reason"], row["detail"]) for row in ledger(made)} == {
        ("not_granted", "its terms do not grant pretrain")
    }
    assert made.rights.uses == {"evaluate", "pretrain"}  # of what is left
    needs_less = build(tmp_path / "store", [source(tmp_path, closed)], hold_back=0, needs=["evaluate"])
    assert len(kept(needs_less)) == 10 and needs_less.rights.uses == {"evaluate"}


def test_an_unknown_constraint_denies_until_someone_says_that_it_is_met(tmp_path: Path) -> None:
    research = {"hosts": ["c.example.com"], "constraints": ["research-only"]}
    asked = source(tmp_path, research)
    assert not terms(asked).allows("pretrain") and all_terms(asked)[0].allows("pretrain")
    made = build(tmp_path / "store", [asked], hold_back=0)
    assert len(kept(made)) == 7 and made.rights.allows("pretrain") and not made.rights.constraints
    met = source(tmp_path, research, met=["research-only"])
    made = build(tmp_path / "store", [met], hold_back=0)
    assert len(kept(made)) == 10 and made.rights.obligations == {"keep-to:research-only"}
    with pytest.raises(ValidationError, match="'non-commercial' is none of the `constraints`"):
        source(tmp_path, research, met=["non-commercial"])


def test_terms_that_are_over_leave_documents_out_from_the_day_after(tmp_path: Path) -> None:
    lent = source(tmp_path, {"hosts": ["c.example.com"], "expires": datetime.date(2027, 3, 31)})
    assert expired([lent], datetime.date(2027, 3, 31)) == ()
    over = expired([lent], datetime.date(2027, 4, 1))
    assert over == ("web.0",)
    before = build(tmp_path / "store", [lent], hold_back=0)
    after = build(tmp_path / "store", [lent], hold_back=0, expired=over)
    assert len(kept(before)) == 10 and before.rights.expires == datetime.date(2027, 3, 31)
    assert len(kept(after)) == 7 and after.rights.expires is None and after.address != before.address


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ({"uses": ["serve"]}, "means no document"),
        ({"hosts": ["a.jp"]}, "changes no term"),
        ({"hosts": ["a.jp"], "licence": "WTFPL"}, "licence 'WTFPL' is not known"),
        ({"hosts": ["a.jp"], "uses": ["pretend"]}, "use 'pretend' is not known"),
        ({"hosts": ["a.jp"], "use": ["serve"]}, "use"),
    ],
)
def test_mistakes_in_overrides(tmp_path: Path, override: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        source(tmp_path, override)


def test_what_is_withdrawn_stays_out_by_whatever_name(tmp_path: Path) -> None:
    whole = build(tmp_path / "store", [source(tmp_path)], hold_back=0)
    identity = next(row["id"] for row in kept(whole) if row["uri"].endswith("/9"))
    made = build(
        tmp_path / "store",
        [source(tmp_path)],
        hold_back=0,
        withdrawn=[f"document:{identity}", "uri:https://a.example.jp/1*", "host:B.example.jp"],
    )
    assert uris(kept(made)) == [
        "a.example.jp/0",
        "a.example.jp/2",
        "a.example.jp/3",
        "c.example.com/7",
        "c.example.com/8",
    ]
    assert sorted(row["detail"].split(":")[0] for row in ledger(made)) == ["by document", *["by host"] * 3, "by uri"]


def test_what_of_a_selection_is_meant() -> None:
    chosen = selection(["uri:dir/*.txt", "uri:a.jsonl", "host:example.jp", "law"])
    assert chosen.why("s", "i", "dir/sub/x.txt") == "uri:dir/*.txt"
    assert chosen.why("s", "i", "a.jsonl#3") == "uri:a.jsonl"
    assert chosen.why("law", "i", "u") == "source:law" and chosen.why("s", "law", "u") == "document:law"
    assert chosen.why("s", "i", "https://WWW.Example.jp./x") == "host:example.jp"
    assert not chosen.why("s", "i", "https://notexample.jp/x") and not chosen.why("s", "i", "dir/x.txt.gz")
    assert host_of("https://[broken") == host_of("a/b.txt") == ""
    with pytest.raises(KibanError, match="names no host"):
        selection(["host:"])
    with pytest.raises(ValidationError, match="use 'pretrian' is not known"):
        CorpusSettings(needs=("pretrian",))
