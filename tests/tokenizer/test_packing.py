import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kiban.artifacts.errors import KibanError
from kiban.tokenizer import packing, passages
from kiban.tokenizer.bpe import Tokenizer
from kiban.tokenizer.packing import TokenStore, pack
from tests.tokenizer.test_bpe import TEXTS, VOCABULARY


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, VOCABULARY)


def documents(number: int) -> list[tuple[str, str, str]]:
    return [(f"id{i}", "abc"[i % 3], TEXTS[i % 5] * (i % 4)) for i in range(number)]


def test_every_token_leads_to_its_document_and_back(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARD_TOKENS", 1000)  # so that documents and windows cross shards
    given = documents(300)
    totals = list(pack(tokenizer, given, tmp_path))
    store = TokenStore.open(tmp_path)
    assert len(list(tmp_path.glob("shard-*.bin"))) > 10
    assert totals[-1] == store.total and totals == sorted(totals)
    whole = store.window(0, store.total)
    offset = 0
    for document_id, source, text in given:
        [(_, _, start, length)] = store.places_of([document_id])
        assert start == offset
        ids = whole[start : start + length].tolist()
        assert (ids[0], ids[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
        assert tokenizer.decode(ids[1:-1]) == text
        assert store.documents(start, start + length) == [(document_id, source, start, length)]
        offset += length
    assert offset == store.total
    places = store.places_of([document_id for document_id, _, _ in given])
    assert [place.id for place in places] == [document_id for document_id, _, _ in given]
    for start in range(0, store.total - 777, 501):
        assert np.array_equal(store.window(start, 777), whole[start : start + 777])
        names = [place.id for place in store.documents(start, start + 777)]
        expected = [p.id for p in places if p.start < start + 777 and p.start + p.length > start]
        assert names == expected
    assert store.places_of(["absent"]) == store.places_of([]) == []
    assert store.num_documents == len(given)
    assert store.documents(5, 5) == []
    assert (store.vocab_size, store.tokenizer) == (tokenizer.vocab_size, tokenizer.digest)


def test_passages_are_found_exactly(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passages, "BLOCK", 2000)
    given = [(f"id{i}", "a", f"{TEXTS[i % 5] * 3}番号{i}号。{TEXTS[(i + 1) % 5]}") for i in range(200)]
    list(pack(tokenizer, given, tmp_path))
    store = TokenStore.open(tmp_path)
    assert len(np.load(tmp_path / passages.BLOCKS)) > 10
    for passage in ("番号137号", "番号1", "号。", "軸受から異音", "もののあはれ", "葛\U000e0100"):
        expected = [document_id for document_id, _, text in given if passage in text]
        assert [place.id for place in store.search(passage, tokenizer)] == expected, passage
    assert len(passages.blocks_with(tmp_path, "番号137号", 200)) < 4
    (tmp_path / passages.BLOCKS).unlink()  # without the index: slower, the same
    assert [place.id for place in store.search("番号137号", tokenizer)] == ["id137"]


def test_packed_tokens_without_look_ups_are_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    list(pack(tokenizer, documents(50), tmp_path))
    there = [TokenStore.open(tmp_path).places_of([f"id{i}"]) for i in range(51)]
    for name in (packing.STARTS, packing.KEYS, packing.ROWS):
        (tmp_path / name).unlink()
    assert [TokenStore.open(tmp_path).places_of([f"id{i}"]) for i in range(51)] == there
    assert [len(places) for places in there] == [1] * 50 + [0]


@pytest.mark.slow
def test_a_hundred_million_tokens_resolve_in_milliseconds(tmp_path: Path) -> None:
    num, each = 200_000, 500
    starts = np.arange(num, dtype=np.int64) * each
    ids = [f"{i:032x}" for i in range(num)]
    np.memmap(tmp_path / "shard-00000.bin", "<u4", "w+", shape=num * each)
    table = pa.table([ids, ["s"] * num, starts, np.full(num, each)], schema=packing.SCHEMA)
    pq.write_table(table, tmp_path / packing.INDEX, row_group_size=packing.ROW_GROUP)
    keys = np.array([packing._key(i) for i in ids], np.uint64)
    order = np.argsort(keys, kind="stable")
    for name, array in ((packing.STARTS, starts), (packing.KEYS, keys[order]), (packing.ROWS, order)):
        np.save(tmp_path / name, array)
    store = TokenStore(tmp_path, 8192, "none", [num * each])
    store.places_of(ids[:1])
    begin = time.perf_counter()
    for i in range(0, num, 2000):
        assert [(place.start, place.length) for place in store.places_of([ids[i]])] == [(i * each, each)]
        assert [place.id for place in store.documents(i * each, i * each + each + 1)] == ids[i : i + 2]
    assert (time.perf_counter() - begin) / 200 < 0.02


def test_packing_again_over_leftovers_gives_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name, number in (("a", 50), ("b", 300), ("b", 50)):
        (tmp_path / name).mkdir(exist_ok=True)
        list(pack(tokenizer, documents(number), tmp_path / name))
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    assert TokenStore.open(tmp_path / "a").fingerprint == TokenStore.open(tmp_path / "b").fingerprint


def test_the_fingerprint_tells_documents_their_order_and_tokenizers_apart(tokenizer: Tokenizer, tmp_path: Path) -> None:
    other = Tokenizer.train(TEXTS, VOCABULARY - 1)
    packings = [
        (tokenizer, documents(9)),
        (tokenizer, documents(9)[::-1]),
        (tokenizer, documents(10)),
        (other, documents(9)),
    ]
    found = set()
    for number, (words, given) in enumerate(packings):
        (tmp_path / str(number)).mkdir()
        list(pack(words, given, tmp_path / str(number)))
        found.add(TokenStore.open(tmp_path / str(number)).fingerprint)
    assert len(found) == len(packings)


def test_a_document_that_cannot_be_encoded_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(KibanError, match="document id7 of abc: character 1 of the text is a lone surrogate"):
        list(pack(tokenizer, [("id7", "abc", "a\udc80")], tmp_path))


def test_truncated_missing_and_empty_shards_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    list(pack(tokenizer, documents(20), tmp_path))
    shard = tmp_path / "shard-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(KibanError, match="pack the tokens again"):
        TokenStore.open(tmp_path)
    shard.unlink()
    with pytest.raises(KibanError, match="holds 0 bytes"):
        TokenStore.open(tmp_path)
    (tmp_path / "tokens.json").write_text("{}")
    with pytest.raises(KibanError, match="not a description of packed tokens"):
        TokenStore.open(tmp_path)
    list(pack(tokenizer, [], tmp_path))
    with pytest.raises(KibanError, match="holds no token"):
        TokenStore.open(tmp_path)


def test_a_window_outside_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    list(pack(tokenizer, documents(20), tmp_path))
    store = TokenStore.open(tmp_path)
    assert len(store.window(store.total, 0)) == 0
    with pytest.raises(KibanError, match="were asked for"):
        store.window(store.total - 1, 2)
