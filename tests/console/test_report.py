"""The report as a file: whole, in both languages, safe with hostile text, and with nothing to fetch."""

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from kiban.artifacts.store import Artifact
from kiban.console.report import CONTENTS, write
from tests.console.made import HOSTILE, TASKS, small_programme

# Elements without an end tag, and those of SVG that are written `<line/>`.
VOID = {"meta", "link", "img", "br", "line", "rect", "circle", "path", "polyline"}
KINDS = ("source", "corpus", "tokenizer", "tokens", "model", "export", "evaluation", "policy", "rollout", "milestones")


class Page(HTMLParser):
    """Elements, texts by language, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {"ja": [], "en": [], "both": []}
        self.content: dict[str, str] = Counter()  # type: ignore[assignment]
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.open.append((tag, attributes))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self.open]
        if {"script", "style"} & set(tags) or not data.strip():
            return
        language = next((a["data-lang"] for _, a in reversed(self.open) if "data-lang" in a), "both")
        self.texts[language].append(data.strip())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, *languages: str) -> str:
        return "\n".join(text for language in languages for text in self.texts[language])


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    return small_programme(tmp_path_factory.mktemp("programme") / "store")


@pytest.fixture(scope="module")
def report(artifacts: list[Artifact], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = write("small", artifacts, tmp_path_factory.mktemp("report") / "report.html")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(report: str) -> Page:
    return Page(report)


def test_it_is_well_formed(page: Page) -> None:
    assert page.open == []
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert [name for name, times in ids.items() if times > 1] == []
    assert {name for name, _ in CONTENTS} <= set(ids)


def test_it_fetches_nothing(page: Page, report: str) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "poster", "action", "xlink:href"):
            assert re.match(r"$|#[a-z]+$|data:", attributes.get(name, "")), (tag, attributes)
        assert "style" not in attributes and not any(name.startswith("on") for name in attributes), (tag, attributes)
    assert not re.search(r"@import|url\(", report)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy and "http" not in policy


def test_hostile_text_is_text(page: Page, report: str) -> None:
    """In a document's title, a generation, a milestone's title and a robot's sentence."""
    assert page.text("both").count(HOSTILE) >= 4
    assert len(page.all("script")) == 1
    assert "<script>alert" not in report and "<img src=x" not in report


def test_both_languages_say_everything(page: Page) -> None:
    assert len(page.texts["ja"]) == len(page.texts["en"]) > 100
    assert not [text for text in page.texts["en"] if re.search("[ぁ-んァ-ヶ]", text)]
    # What is the same in Japanese is a name or a number.
    assert {"概要", "コーパス", "系譜"} <= set(page.texts["ja"])
    for attributes in page.all("img"):
        assert attributes["alt"] == attributes["data-ja"] and attributes["data-en"]


def test_the_figures_are_those_of_the_manifests(page: Page) -> None:
    japanese, english = page.text("ja", "both"), page.text("en", "both")
    assert "6,000 文書のうち 5,160 文書を採用" in japanese and "5,160 of 6,000 documents kept" in english
    assert "損失 3.214、821万 パラメータ" in japanese and "loss 3.214, 8.21M parameters" in english
    assert "文字化け" in japanese and "a_reason_of_tomorrow" in english
    assert "63.0–78.0%" in japanese
    assert "123億4,560万円" in japanese and "¥10 billion" in english
    assert "CC-BY-SA-4.0" in japanese and "no identification of persons (for dialogue)" in english


def test_how_much_of_a_set_the_corpus_holds_stands_beside_it(report: str) -> None:
    assert "61問のうち2問がコーパスにある（除いた文書は4）" in report
    assert "2 of 61 items are in the corpus; 4 documents were left out of it" in report


def test_milestones_have_verdict_evidence_and_who_signed(page: Page) -> None:
    verdicts = Counter(a["class"] for a in page.all("span") if a.get("class", "").startswith("verdict"))
    assert verdicts == {
        "verdict met": 2 + 3,  # M1 twice, and its two criteria and one of M2's
        "verdict partly-met": 2,
        "verdict not-met": 2 + 2,
        "verdict unknown": 1,
    }
    assert "content, research, robots (signed with demo keys)" in page.text("en")
    assert "evidence/M2.dsse.json" in page.text("both")


def test_the_lineage_shows_every_artifact_and_what_it_was_made_from(page: Page, artifacts: list[Artifact]) -> None:
    boxes = {a["data-n"]: a for a in page.all("g") if a.get("class", "").startswith("box")}
    assert len(boxes) == len(artifacts)
    number = {artifact.address: str(i) for i, artifact in enumerate(artifacts)}
    model = next(artifact for artifact in artifacts if artifact.kind == "model")
    sources = {number[artifact.address] for artifact in artifacts if artifact.kind == "source"}
    assert sources < set(boxes[number[model.address]]["data-up"].split())
    edges = {(a["data-from"], a["data-to"]) for a in page.all("path")}
    corpus, tokens = (next(number[a.address] for a in artifacts if a.kind == kind) for kind in ("corpus", "tokens"))
    assert (" ".join(sorted(sources)), corpus) in edges
    assert (corpus, tokens) not in edges  # it follows from the tokenizer's


def test_films_are_in_the_file(page: Page) -> None:
    kinds = Counter(a["src"].split(";")[0] for a in page.all("img"))
    assert kinds == {"data:image/png": len(TASKS), "data:image/gif": len(TASKS)}
    assert "「恐れ入りますが、赤い立方体を取っていただけますか」" in page.text("both")
    english = page.text("en")
    assert english.count("The first episode that succeeded") == 2
    assert "No episode succeeded; this is the first (number 3)" in english


def test_tables_and_charts_are_accessible(page: Page, report: str) -> None:
    assert report.count("<table") == report.count("<caption")
    assert report.count("<h1") == 1
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for tag, attributes in page.elements:
        assert attributes.get("aria-labelledby", "") in ids | {""}, (tag, attributes)
        if tag == "svg" and "role" not in attributes and "viewbox" not in attributes:
            assert attributes.get("aria-hidden") == "true", attributes


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_stage_is_said(kind: str, artifacts: list[Artifact], tmp_path: Path) -> None:
    without = [artifact for artifact in artifacts if artifact.kind != kind]
    page = Page(write("small", without, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert page.text("ja").count("未作成") == 1


def test_a_programme_without_artifacts(tmp_path: Path) -> None:
    page = Page(write("empty", [], tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.open == [] and "未作成" in page.text("ja")


def test_it_stays_small(artifacts: list[Artifact], report: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Films that would make the file too large are left out, and the page says so."""
    assert len(report.encode()) < 300_000
    monkeypatch.setattr("kiban.console.sections.robot.MOST_FILM_BYTES", 100)
    page = Page(write("small", artifacts, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.all("img") == []
    assert "films/" in page.text("both")
