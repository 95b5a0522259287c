"""Sources and corpora for tests, made by the programme's own runner in a store under a temporary folder."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kiban.artifacts.progress import Progress
from kiban.artifacts.store import Artifact, open_store
from kiban.corpus.sources import SourceSettings, source
from kiban.corpus.stage import CorpusSettings, corpus
from kiban.programme.runner import Node, make, plan

USES = ("pretrain", "evaluate")


def source_of(name: str, path: Path, format: str, **settings: Any) -> SourceSettings:
    given = {"partner": "self", "licence": "public-domain", "uses": USES} | settings
    return SourceSettings.model_validate({"name": name, "path": str(path), "format": format, **given})


def build(store: Path, sources: list[SourceSettings], **settings: Any) -> Artifact:
    """The corpus of these sources."""
    nodes = [
        Node(
            f"source.{s.name}",
            source,
            s.model_copy(update={"location": None if s.format == "demo" else s.location or s.path}),
            {},
        )
        for s in sources
    ]
    locations = {s.name: s.location or s.path for s in sources if s.format != "demo"}
    wanted = CorpusSettings.model_validate(settings | {"locations": locations, "folder": str(store)})
    nodes.append(Node("corpus", corpus, wanted, {"sources": tuple(node.name for node in nodes)}))
    opened = open_store(str(store), store)
    return make("test", plan(nodes, opened), opened, Progress(quiet=True))[-1]


def kept(artifact: Artifact) -> list[dict[str, Any]]:
    tables = [pq.read_table(path) for path in sorted((artifact.path / "shards").iterdir())]
    return pa.concat_tables(tables).to_pylist()


def held_back(artifact: Artifact) -> list[dict[str, Any]]:
    return pq.read_table(artifact.path / "held_back.parquet").to_pylist()


def ledger(artifact: Artifact) -> list[dict[str, Any]]:
    return pq.read_table(artifact.path / "ledger.parquet").to_pylist()


def digests(artifact: Artifact) -> dict[str, str]:
    """The sha256 of every file but the manifest, which holds times."""
    paths = [path for path in artifact.path.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {
        path.relative_to(artifact.path).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(paths)
    }


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def sentences(count: int, start: int = 0) -> list[str]:
    """Different Japanese texts of some 150 characters, no two of them similar."""
    places = ("倉庫", "工場", "港", "駅前", "山小屋", "図書館", "研究室", "市場", "畑", "病院", "空港")
    things = ("機械", "荷物", "書類", "試料", "道具", "部品", "野菜", "模型", "薬品", "布地", "写真", "楽器", "時計")
    actions = (
        "確かめてから棚へ戻した",
        "急いで運び出すことになった",
        "一つずつ数え直している",
        "誰にも渡さず守り続けた",
    )
    ends = (
        "雨はまだ降りやまない",
        "夜明けまでに終わるだろう",
        "風の音だけが聞こえていた",
        "次の便を待つほかない",
        "皆が笑った",
    )
    made = []
    for i in range(start, start + count):
        digest = hashlib.sha256(str(i).encode()).digest()
        parts = [
            f"{places[digest[4 * j] % 11]}では{things[digest[4 * j + 1] % 13]}を"
            f"{actions[digest[4 * j + 2] % 4]}。{ends[digest[4 * j + 3] % 5]}、と{i}番の係が記している。"
            for j in range(4)
        ]
        made.append("".join(parts))
    return made
