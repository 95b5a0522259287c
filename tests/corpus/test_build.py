"""Whole corpora: nothing lost, the same bytes whatever happens on the way, and bad sources."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from kiban.artifacts.errors import KibanError
from kiban.artifacts.kernel import kernel
from kiban.corpus import build as building
from kiban.corpus import pieces, writing
from kiban.corpus.documents import document_schema, ledger_schema
from kiban.corpus.sources import SourceSettings
from tests.corpus.building import build, digests, held_back, kept, ledger, sentences, source_of, write_jsonl


def records() -> list[dict[str, Any]]:
    """A hundred good texts, and some of each kind that goes."""
    good = [{"text": text, "title": f"題{i}", "author": "筆者"} for i, text in enumerate(sentences(100))]
    bad = [
        {"text": ""},
        {"text": "abc def " * 30},
        {"text": good[0]["text"]},
        {"text": good[1]["text"] + "もう一行。"},
        {"text": "日本語の文章です。今日は。".encode().decode("cp932", errors="ignore") * 3},
        {"no text": 1},
        {"text": "壊れた\ud800文字"},
    ]
    good[5]["text"] += "連絡先は090-1234-5678、taro@example.jpまで。"
    return good + bad


def own(tmp_path: Path, **settings: Any) -> SourceSettings:
    path = tmp_path / "own.jsonl"
    if not path.exists():
        write_jsonl(path, records())
    return source_of("own", path, "jsonl", **settings)


def test_nothing_is_lost_and_every_drop_has_its_reason(tmp_path: Path) -> None:
    corpus = build(tmp_path / "store", [own(tmp_path, register="news")], hold_back=0.05)
    stays, held, dropped = kept(corpus), held_back(corpus), ledger(corpus)
    figures = {name: metric.value for name, metric in corpus.metrics.items()}
    assert len(stays) + len(held) + len(dropped) == 107 == figures["corpus.documents_in"]
    assert Counter(row["reason"] for row in dropped) == {
        "empty": 1,
        "no_text": 1,
        "duplicate_exact": 1,
        "duplicate_near": 1,
        "mojibake": 1,
        "malformed": 1,
        "undecodable": 1,
    }
    assert figures["corpus.dropped.duplicate_exact"] == 1
    assert figures["corpus.masked.phone"] == 1 and figures["corpus.masked.email"] == 1
    assert figures["corpus.documents_kept"] == len(stays) and figures["corpus.documents_held_back"] == len(held) >= 3
    assert figures["corpus.characters_kept"] == sum(len(row["text"]) for row in stays)
    (masked,) = (row for row in stays + held if "連絡先は" in row["text"])
    assert masked["text"].endswith("連絡先は〔電話番号〕、〔メールアドレス〕まで。")
    assert len({row["id"] for row in stays + held + dropped}) == 107
    row = stays[0]
    assert list(row) == document_schema().names and list(dropped[0]) == ledger_schema().names
    assert row["source"] == "own" and row["partner"] == "self" and row["licence"] == "public-domain"
    assert row["uses"] == ["evaluate", "pretrain"] and row["residency"] == ["*"] and row["register"] == "news"
    assert corpus.rights.uses == {"pretrain", "evaluate"}


def test_what_was_masked_is_told_by_document(tmp_path: Path) -> None:
    texts = [
        *sentences(10),
        "連絡先は090-1234-5678、または03-1234-5678と、taro@example.jp、個人番号は123456789018です。",
    ]
    source = source_of("a", write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts]), "jsonl")
    made = build(tmp_path / "store", [source], hold_back=0)
    masked = pq.read_table(made.path / "masks.parquet").to_pylist()
    [identity] = [row["id"] for row in kept(made) if "〔電話番号〕" in row["text"]]
    assert {row["id"] for row in masked} == {identity}
    assert {row["category"]: row["count"] for row in masked} == {"phone": 2, "email": 1, "my_number": 1}


def test_of_duplicates_the_one_that_stays_is_named(tmp_path: Path) -> None:
    corpus = build(tmp_path / "store", [own(tmp_path)], hold_back=0)
    stays = {row["id"]: row for row in kept(corpus)}
    for row in ledger(corpus):
        if row["reason"].startswith("duplicate"):
            assert row["score"] >= 0.8
            assert row["detail"].removeprefix("of ") in stays


def test_what_is_withdrawn_stays_out(tmp_path: Path) -> None:
    before = build(tmp_path / "store", [own(tmp_path)])
    first, second = kept(before)[:2]
    after = build(tmp_path / "store", [own(tmp_path)], withdrawn=(first["id"], second["uri"]))
    assert after.address != before.address
    left_out = [row for row in ledger(after) if row["reason"] == "withdrawn"]
    assert {row["id"] for row in left_out} == {first["id"], second["id"]}
    assert not {first["id"], second["id"]} & {row["id"] for row in kept(after) + held_back(after)}
    other = source_of("other", write_jsonl(tmp_path / "o.jsonl", [{"text": t} for t in sentences(20, 500)]), "jsonl")
    without = build(tmp_path / "store", [own(tmp_path), other], withdrawn=("other",))
    assert {row["source"] for row in kept(without)} == {"own"}
    assert without.metrics["corpus.dropped.withdrawn"].value == 20


def test_workers_make_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 8_000)
    serial = build(tmp_path / "serial", [own(tmp_path)], hold_back=0.05)
    process = build(tmp_path / "process", [own(tmp_path)], hold_back=0.05, workers=2)
    assert len(list((serial.path / "shards").iterdir())) > 3
    assert digests(serial) == digests(process)
    assert serial.address == process.address


def test_the_order_of_sources_does_not_change_what_stays(tmp_path: Path) -> None:
    a = source_of("a", write_jsonl(tmp_path / "a.jsonl", [{"text": t} for t in sentences(40)]), "jsonl")
    b = source_of("b", write_jsonl(tmp_path / "b.jsonl", [{"text": t + "末尾。"} for t in sentences(50)]), "jsonl")
    one, other = build(tmp_path / "one", [a, b]), build(tmp_path / "other", [b, a])
    assert {row["id"] for row in kept(one)} == {row["id"] for row in kept(other)}
    assert {row["id"] for row in held_back(one)} == {row["id"] for row in held_back(other)}


def test_repeated_parts_are_cut_out_of_all_but_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 4_000)
    notice = "この文書の無断での複製と転載を固く禁じます。"
    made = sentences(80)
    letters = [f"{made[i]}\n{notice}\n{made[i + 1][:70]}{made[-1]}{made[i + 2][-50:]}" for i in range(0, 60, 3)]
    texts = [*letters, notice, made[0], made[3], made[6]]
    source = source_of("letters", write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts]), "jsonl")
    settings: dict[str, Any] = {
        "hold_back": 0.1,
        "repeated_paragraphs": 20,
        "repeated_spans": 100,
        "near_duplicate": 0.95,
    }
    uncut = build(tmp_path / "uncut", [source], hold_back=0, near_duplicate=0.95)
    one = build(tmp_path / "one", [source], **settings)
    other = build(tmp_path / "other", [source], **settings, workers=2, signature_bits=32)
    assert digests(one) == digests(other)
    texts = [row["text"] for row in held_back(one) + kept(one)]
    assert sum(notice in text for text in texts) == 1
    assert sum(made[-1][25:110] in text for text in texts) == 1
    assert all(any(made[i][:100] in text for text in texts) for i in range(0, 60, 3))
    assert any(notice in row["text"] for row in held_back(one))  # so that none of it is trained on
    assert {row["reason"] for row in ledger(one)} == {"repeated_parts"}
    cut = {row["id"]: row["characters"] for row in pq.read_table(one.path / "cuts.parquet").to_pylist()}
    assert all(row["characters"] == cut[row["id"]] for row in ledger(one))
    assert json.loads((one.path / "summary.json").read_text())["sources"]["letters"]["characters_cut"] == sum(
        cut.values()
    )
    before = {row["id"]: len(row["text"]) for row in held_back(uncut) + kept(uncut)}
    after = {row["id"]: len(row["text"]) for row in held_back(one) + kept(one)}
    assert all(before[identity] == after.get(identity, 0) + cut.get(identity, 0) for identity in before)
    assert len(texts) + len(ledger(one)) == len(letters) + 4
    wide = build(tmp_path / "wide", [source], **settings, signature_bits=64)
    assert sum(notice in row["text"] for row in held_back(wide) + kept(wide)) == 1


def test_an_interrupted_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 8_000)
    whole = build(tmp_path / "whole", [own(tmp_path)])
    num_pieces = len(list(whole.path.glob("shards/*")))
    made: list[str] = []
    real_make, real_finish = building.make_piece, writing.finish_piece

    def make(job: Any, piece: Any) -> None:
        if len(made) == 2:
            raise KeyboardInterrupt
        real_make(job, piece)
        made.append(f"piece {piece.number}")

    def finish(folder: Path, decision: Any, to: Path) -> None:
        if len(made) == num_pieces + 1:
            raise KeyboardInterrupt
        real_finish(folder, decision, to)
        made.append(to.name)

    monkeypatch.setattr(building, "make_piece", make)
    monkeypatch.setattr(writing, "finish_piece", finish)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "store", [own(tmp_path)])
    monkeypatch.setattr(building, "make_piece", lambda job, piece: (real_make(job, piece), made.append(piece.number)))
    with pytest.raises(KeyboardInterrupt):  # now in the second pass
        build(tmp_path / "store", [own(tmp_path)])
    assert len(list((tmp_path / "store").glob("staging/*/.work/written/*"))) == 1 < num_pieces
    monkeypatch.setattr(building, "make_piece", None)  # all pieces are there: none is made again
    monkeypatch.setattr(building, "_decide", None)  # nor is decided again
    finished = len(made)
    monkeypatch.setattr(writing, "finish_piece", lambda *a: (real_finish(*a), made.append("again")))
    assert digests(build(tmp_path / "store", [own(tmp_path)])) == digests(whole)
    assert made.count("again") == num_pieces - 1 and finished == num_pieces + 1


CHILD = """
import sys
from pathlib import Path
from kiban.corpus import pieces, writing
from tests.corpus.building import build, source_of
pieces.PIECE_BYTES = 8_000
folder = Path(sys.argv[1])
build(folder / "store", [source_of("own", folder.parent / "own.jsonl", "jsonl")], workers=int(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("finished", [1, 3, "written 1", "written 3"])
def test_killed_at_any_time_it_loses_no_finished_piece_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, finished: int | str
) -> None:
    own(tmp_path)
    root = Path(__file__).parents[2]
    (tmp_path / "killed").mkdir()
    command = [sys.executable, "-c", CHILD, str(tmp_path / "killed"), str(workers)]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}"}
    kind, wanted = ("written", int(finished[-1])) if isinstance(finished, str) else ("pieces", finished)

    def there(kind: str) -> set[str]:
        with suppress(FileNotFoundError):  # folders come and go
            found = (tmp_path / "killed").glob(f"store/staging/*/.work/{kind}/*")
            return {path.name for path in found if path.suffix != ".tmp"}
        return set()

    child = subprocess.Popen(command, env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < deadline and len(there(kind)) < wanted:
        time.sleep(0.0005)
    assert child.poll() in (None, 0), "the build failed by itself"
    with suppress(ProcessLookupError):  # it may have come to its end
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    made = {kind: there(kind) for kind in ("pieces", "written")}
    ended = not list((tmp_path / "killed").glob("store/staging/*"))
    monkeypatch.setattr(pieces, "PIECE_BYTES", 8_000)
    whole = build(tmp_path / "whole" / "store", [own(tmp_path)])
    again: Counter[str] = Counter()
    real_make, real_finish = building.make_piece, writing.finish_piece
    monkeypatch.setattr(building, "make_piece", lambda *a: (real_make(*a), again.update(["pieces"])))
    monkeypatch.setattr(writing, "finish_piece", lambda *a: (real_finish(*a), again.update(["written"])))
    resumed = build(tmp_path / "killed" / "store", [own(tmp_path)])
    assert digests(resumed) == digests(whole)
    num_pieces = len(list(whole.path.glob("shards/*")))
    if not ended:
        assert again == {kind: n for kind in made if (n := num_pieces - len(made[kind]))}


def test_an_author_is_held_back_whole(tmp_path: Path) -> None:
    folder = tmp_path / "aozora"
    folder.mkdir()
    for i, text in enumerate(sentences(60)):
        header = f"題{i}\n筆者{i // 3}\n\n"
        (folder / f"{i}.txt").write_bytes((header + text + "\n\n底本：「全集」\n").encode("cp932"))
    corpus = build(tmp_path / "store", [source_of("aozora", folder, "aozora")], hold_back=0.1)
    authors = {row["author"] for row in held_back(corpus)}
    assert authors and not authors & {row["author"] for row in kept(corpus)}
    assert len(held_back(corpus)) == 3 * len(authors)


def test_the_demo_text(tmp_path: Path) -> None:
    demo = source_of("demo", Path("kiban:demo"), "demo", megabytes=0.3)
    corpus = build(tmp_path / "store", [demo], hold_back=0.05)
    assert corpus.metrics["corpus.documents_in"].value > 100
    assert corpus.metrics["corpus.characters_kept"].value > 30_000
    assert len(held_back(corpus)) > 0 and len({row["register"] for row in kept(corpus)}) > 1


# Bad input


def error_of(tmp_path: Path, *sources: SourceSettings, **settings: Any) -> str:
    with pytest.raises(KibanError) as caught:
        build(tmp_path / "store", list(sources), **settings)
    message = str(caught.value)
    assert "\n" not in message
    store = tmp_path / "store"
    assert (store / "staging").is_dir()
    assert not list(store.glob("staging/*/*")) and not list(store.glob("artifacts/corpus/*/*"))
    return message


def test_one_document_in_the_wrong_encoding_goes_to_the_ledger(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for i, text in enumerate(sentences(5)):
        (folder / f"{i}.txt").write_bytes(text.encode("cp932" if i == 2 else "utf-8"))
    corpus = build(tmp_path / "store", [source_of("own", folder, "plain", encoding="utf-8")], hold_back=0)
    (row,) = ledger(corpus)
    assert (row["reason"], row["uri"]) == ("undecodable", "2.txt")
    assert row["detail"].startswith("not utf-8")
    assert len(kept(corpus)) == 4 and not any("\ufffd" in document["text"] for document in kept(corpus))


def test_a_source_all_in_the_wrong_encoding(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for i, text in enumerate(sentences(3)):
        (folder / f"{i}.txt").write_bytes(text.encode("cp932"))
    message = error_of(tmp_path, source_of("own", folder, "plain", encoding="utf-8"))
    assert message.startswith("source 'own': none of its 3 documents can be read as plain in utf-8")
    assert "0.txt" in message and "`encoding`" in message
    assert len(kept(build(tmp_path / "store", [source_of("own", folder, "plain", encoding="cp932")], hold_back=0))) == 3


def test_euc_jp_is_not_taken_for_cp932(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(f"あい\nうえ\n\n{'あいうえおかきくけこさしすせそ。' * 9}".encode("euc_jp"))
    assert "EUC-JP" in error_of(tmp_path, source_of("own", tmp_path / "a.txt", "aozora", encoding="cp932"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "there is no document in it"), (b"\n\n", "there is no document in it"), (b"{}\n", "correct its `format`")],
)
def test_an_empty_source(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    assert expected in error_of(tmp_path, source_of("own", tmp_path / "a.jsonl", "jsonl"))


def test_a_source_of_empty_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n　\n")
    assert "no text in it" in error_of(tmp_path, source_of("own", tmp_path / "a.txt", "plain"))


def test_a_corpus_of_which_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("English only, of no use here.")
    assert "no document is left (1 no_text)" in error_of(tmp_path, source_of("own", tmp_path / "a.txt", "plain"))


def test_a_truncated_archive_leaves_nothing_behind(tmp_path: Path) -> None:
    data = pa.compress("".join(sentences(500)).encode(), codec="zstd", asbytes=True)
    (tmp_path / "a.txt.zst").write_bytes(data[:-40])
    assert "a.txt.zst: damaged or cut short" in error_of(tmp_path, source_of("own", tmp_path / "a.txt.zst", "plain"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"format": "wordperfect"}, "format"),
        ({"licence": "WTFPL"}, "licence 'WTFPL' is not known"),
        ({"uses": ["pretend"]}, "use 'pretend' is not known"),
        ({"encoding": "klingon"}, "encoding 'klingon' is not known"),
        ({"name": "Große Quelle"}, "name"),
        ({"megabytes": 3}, "'megabytes' is for the demo text alone"),
        ({"path": "kiban:demo"}, "go together"),
    ],
)
def test_mistakes_in_settings(settings: dict[str, Any], expected: str) -> None:
    given = {"name": "own", "path": "a.txt", "format": "plain", "partner": "self", "licence": "MIT", "uses": ["serve"]}
    with pytest.raises(ValidationError, match=expected):
        SourceSettings.model_validate(given | settings)


def test_kernels_run_where_nothing_may_be_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    real = numba.njit

    def njit(**options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(numba, "njit", njit)
    assert kernel(lambda x: x + 1)(1) == 2


def test_real_documents_whole(kiban_data: Path, tmp_path: Path) -> None:
    folder = kiban_data / "smoke"
    sources = [
        source_of("aozora", folder / "aozora", "aozora"),
        source_of("d365", folder / "d365-md", "markdown"),
        source_of("law", folder / "law-html", "html"),
    ]
    corpus = build(tmp_path / "store", sources, hold_back=0.05, evaluation_data=str(kiban_data / "eval"))
    assert len(kept(corpus)) + len(held_back(corpus)) + len(ledger(corpus)) == 52
    assert len(kept(corpus)) + len(held_back(corpus)) >= 48
    assert corpus.metrics["corpus.documents_in"].value == 52
