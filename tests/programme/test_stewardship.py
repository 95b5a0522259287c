"""`kiban corpus` as the data steward uses it: a small programme is made and trained, then things are taken back."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kiban.artifacts.errors import KibanError
from kiban.artifacts.store import Store
from kiban.cli.consumers import Consumers
from kiban.corpus.mixture import MixSettings
from kiban.corpus.selection import selection
from kiban.corpus.sources import SourceSettings, all_terms
from kiban.corpus.stage import CorpusSettings
from kiban.programme.settings import load
from tests.commands import error_of, kiban, kiban_json
from tests.corpus.building import sentences, write_jsonl

PROGRAMME = """
[programme]
name = "small"
demo_keys = true

[[partner]]
name = "press"

[[source]]
name = "news"
path = "news.jsonl"
format = "jsonl"
partner = "press"
licence = "CC-BY-SA-4.0"
uses = ["pretrain", "evaluate", "serve"]
attribution = "ある新聞社の記事"
obligations = ["no-identification"]

[[source.override]]
hosts = ["free.example.jp"]
licence = "CC0-1.0"

[[source]]
name = "manual"
path = "manual.jsonl"
format = "jsonl"
partner = "press"
licence = "MIT"
notice = "LICENSE"
uses = ["pretrain", "evaluate"]
expires = 2099-12-31

[corpus]
hold_back = 0.02

[tokenizer]
vocabulary = 400

[training]
tokens = 192
sequence_length = 64
batch_sequences = 1
permanent_every = 1
"""


@pytest.fixture(scope="module")
def programme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    texts = sentences(90)
    hosts = ["a.example.jp", "www.b.example.jp", "free.example.jp"]
    news = [{"text": t, "url": f"https://{hosts[n % 3]}/{n}", "title": f"記事{n}"} for n, t in enumerate(texts[:60])]
    news.append({"text": texts[60], "url": "https://a.example.jp/twin"})
    write_jsonl(folder / "news.jsonl", news)
    write_jsonl(folder / "manual.jsonl", [{"text": t} for t in [*texts[61:], texts[60]]])
    (folder / "LICENSE").write_text("Copyright 2026 the press. Permission is hereby granted ...\n")
    (folder / "kiban.toml").write_text(PROGRAMME, encoding="utf-8")
    kiban("run", folder, "--to", "export")
    return folder


def test_the_settings_in_the_guide_are_settings() -> None:
    page = (Path(__file__).parents[2] / "docs" / "corpus.md").read_text(encoding="utf-8")
    models = {"corpus": CorpusSettings, "mix": MixSettings}
    seen = set()
    for block in re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL):
        for table, value in tomllib.loads(block).items():
            seen.add(table)
            if table == "source":
                [source] = [SourceSettings.model_validate(each) for each in value]
                assert [rights.uses for rights in all_terms(source)][-1] == {"evaluate"}
            else:
                models[table].model_validate(value)
    assert seen == {"source", *models}


def relations(answer: dict[str, Any]) -> dict[str, str]:
    return {artifact["name"].removeprefix("small/"): artifact["relation"] for artifact in answer["artifacts"]}


def withdrawal(programme: Path, *options: str | Path) -> dict[str, Any]:
    answer: dict[str, Any] = kiban_json("corpus", "withdraw", programme, "--only-list", "--json", *options)
    return answer


def test_the_ledger_shows_every_source_and_the_whole(programme: Path) -> None:
    found = kiban_json("corpus", "ledger", programme, "--json")
    news, manual = found["sources"]
    assert news["uses"] == ["evaluate", "pretrain", "serve"] and news["partner"] == "press"
    assert news["overrides"][0]["hosts"] == ["free.example.jp"] and news["overrides"][0]["licence"] == "CC0-1.0"
    assert manual["expires"] == "2099-12-31" and manual["documents"]["documents_in"] == 30
    assert found["whole"]["uses"] == ["evaluate", "pretrain"] and found["whole"]["expires"] == "2099-12-31"
    assert found["whole"]["obligations"] == [
        *("attribution:manual", "attribution:news", "no-identification", "share-alike:CC-BY-SA-4.0")
    ]
    shown = kiban("corpus", "ledger", programme).stdout
    assert "but hosts free.example.jp: CC0-1.0" in shown and "until        2099-12-31" in shown


def test_every_artifact_carries_the_meet(programme: Path) -> None:
    manifests = [json.loads(path.read_text()) for path in programme.glob(".kiban/artifacts/*/*/manifest.json")]
    whole = {m["kind"]: m["rights"] for m in manifests if m["kind"] != "source"}
    assert set(whole) == {"corpus", "tokenizer", "tokens", "model", "export"}
    for rights in whole.values():
        assert rights["uses"] == ["evaluate", "pretrain"] and rights["expires"] == "2099-12-31"


def test_what_licences_ask_is_printed(programme: Path) -> None:
    shown = kiban("corpus", "attributions", programme, "--notices").stdout
    assert "ある新聞社の記事. CC-BY-SA-4.0, https://creativecommons.org/licenses/by-sa/4.0/." in shown
    assert "comes under CC-BY-SA-4.0" in shown and "Copyright 2026 the press" in shown and "CC0" not in shown
    rows = kiban_json("corpus", "attributions", programme, "--documents", "--json")
    works = {row["licence"]: row["documents"] for row in rows}
    assert {"title": "記事0", "author": "", "uri": "https://a.example.jp/0"} in works["CC-BY-SA-4.0"]
    assert not any("free.example.jp" in work["uri"] for work in works["CC-BY-SA-4.0"])


def test_what_may_not_be_kept_here_is_refused(tmp_path: Path) -> None:
    source = (
        '[[source]]\nname = "a"\npath = "a.txt"\nformat = "plain"\npartner = "p"\nlicence = "MIT"\nuses = ["serve"]\n'
    )
    file = tmp_path / "kiban.toml"
    for kept, refused in (('["JP", "SG"]', False), ('["*"]', False), ('["SG"]', True)):
        head = '[programme]\nname = "a"\nresidency = "JP"\n[[partner]]\nname = "p"\n'
        file.write_text(f"{head}{source}residency = {kept}\n")
        if refused:
            with pytest.raises(KibanError, match="source 'a': may be kept in SG, not in JP"):
                load(file)
        else:
            load(file)


def test_who_consumed_a_document_is_told_apart(programme: Path) -> None:
    """A model of three steps of 64 tokens has read a few documents, and most not."""
    told: dict[str, list[str]] = {}
    listed = withdrawal(programme, "--source", "news", "--source", "manual")["documents"]
    store = Store(programme / ".kiban")
    for document in listed:
        consumers = Consumers(store, selection([f"document:{document['id']}"])).all()
        model = [consumer.relation for consumer in consumers if consumer.kind == "model"]
        told.setdefault(model[0] if model else "not packed", []).append(document["id"])
    assert set(told) >= {"consumed", "in a shard, not reached"}
    read, unread = told["consumed"][0], told["in a shard, not reached"][0]
    answer = withdrawal(programme, "--document", read)
    assert relations(answer) == {
        **dict.fromkeys(("corpus", "tokenizer", "tokens", "model"), "consumed"),
        "export": "inherited from a checkpoint",
    }
    model = next(a for a in answer["artifacts"] if a["kind"] == "model")
    steps = kiban_json("trace", read, "--programme", programme, "--json")["documents"][0]["steps"]
    assert model["figures"]["first_step"] == steps[0] and model["figures"]["steps"] == len(steps)
    assert relations(withdrawal(programme, "--document", unread))["export"] == "in a shard, not reached"


@pytest.mark.slow
def test_a_run_elsewhere_is_told_too(programme: Path, tmp_path: Path) -> None:
    """One that goes on from the programme's model inherits; one on its tokens has read, or not yet."""
    [export] = programme.glob(".kiban/artifacts/export/*/config.json")
    [tokens] = programme.glob(".kiban/artifacts/tokens/*/tokens.json")
    (tmp_path / "other.txt").write_text("".join(sentences(40, 900)), encoding="utf-8")
    kiban("tokens", tmp_path / "other.txt", "--tokenizer", export.parent, "--to", tmp_path / "packed")
    size = ("--steps", "1", "--sequence-length", "64", "--batch-sequences", "1")
    kiban("train", "--data", tmp_path / "packed", "--from", export.parent, *size, "--to", tmp_path / "child")
    kiban("train", "--data", tokens.parent, *size, "--to", tmp_path / "same", "--seed", "7")
    answer = withdrawal(programme, "--source", "news", "--run", tmp_path / "child", "--run", tmp_path / "same")
    runs = {Path(a["name"]).name: a["relation"] for a in answer["artifacts"] if a["kind"] == "run"}
    assert runs["child"] == "inherited from a checkpoint" and runs["same"] in ("consumed", "in a shard, not reached")
    assert "holds no checkpoints" in error_of("corpus", "withdraw", programme, "--source", "news", "--run", tmp_path)


def test_what_is_withdrawn_is_left_out_of_the_next_build(programme: Path) -> None:
    """Last in this file: it changes the programme."""
    twin = "https://a.example.jp/twin"
    before = kiban_json("corpus", "ledger", programme, "--json")
    kept = next(s for s in before["sources"] if s["source"] == "manual")["documents"]["documents_kept"]
    first = kiban_json("corpus", "withdraw", programme, "--uri", twin, "--reason", "by its author", "--json")
    assert first["withdrawn"] == [f"uri:{twin}"] and len(first["documents"]) == 1
    assert "withdrawn before" in kiban("corpus", "withdraw", programme, "--uri", twin).stdout
    kiban("corpus", "withdraw", programme, "--host", "B.example.jp")
    [line, _] = (programme / "withdrawn.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "by its author"
    assert "setting 'withdrawn' was [] and is" in kiban("run", programme, "--to", "corpus", "--explain").stdout
    kiban("run", programme, "--to", "corpus")
    after = kiban_json("corpus", "ledger", programme, "--json")
    news, manual = after["sources"]
    assert news["documents"]["dropped"]["withdrawn"] == 21
    copies = {copy["uri"] for copy in first["copies"]}
    assert copies == set() or manual["documents"]["documents_kept"] == kept + 1  # one of the twins was a copy
    assert withdrawal(programme, "--host", "b.example.jp")["artifacts"]  # of the corpus before: it is still there
    assert "names are" not in error_of("corpus", "withdraw", programme, "--source", "novels")
    assert "say what is withdrawn" in error_of("corpus", "withdraw", programme)
    (programme / "withdrawn.jsonl").write_text('{"what": "page:3", "at": ""}\n')
    assert "withdrawn.jsonl:1: not a withdrawal ('page:3' does not begin with" in error_of("run", programme)
