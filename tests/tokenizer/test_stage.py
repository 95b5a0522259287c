"""The two stages on a small corpus."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from kiban.artifacts.errors import KibanError
from kiban.artifacts.manifest import Code, Made, Manifest
from kiban.artifacts.progress import Progress
from kiban.artifacts.rights import Rights
from kiban.artifacts.store import Artifact
from kiban.tokenizer.bpe import Tokenizer
from kiban.tokenizer.packing import TokenStore
from kiban.tokenizer.stage import TokenizerSettings, TokensSettings, tokenizer, tokens
from tests.tokenizer.test_bpe import TEXTS

QUIET = Progress(quiet=True)


def artifact(folder: Path, kind: str) -> Artifact:
    manifest = Manifest(
        schema=1,
        kind=kind,
        address="sha256:" + "0" * 64,
        name=f"test/{kind}",
        inputs={},
        settings={},
        code=Code(kiban="0", stage=f"{kind}/1"),
        rights=Rights(),
        files={},
        metrics={},
        made=Made(at="", seconds=0, peak_bytes=0, hardware=""),
    )
    return Artifact(folder, manifest)


def corpus(folder: Path, texts: list[str], shards: int = 2) -> Artifact:
    (folder / "shards").mkdir(parents=True)
    for shard in range(shards):
        part = texts[shard::shards]
        ids = [f"{shard}-{i}" for i in range(len(part))]
        table = pa.table({"id": ids, "text": part, "source": ["s"] * len(part), "uses": [["pretrain"]] * len(part)})
        pq.write_table(table, folder / "shards" / f"part-{shard:05d}.parquet")
    return artifact(folder, "corpus")


def test_tokenizer_and_tokens(tmp_path: Path) -> None:
    given = corpus(tmp_path / "corpus", TEXTS)
    out = tmp_path / "tokenizer"
    out.mkdir()
    metrics = tokenizer.function(TokenizerSettings(vocabulary=400), given, out=out, progress=QUIET).metrics
    made = Tokenizer.load(out)
    assert metrics["tokenizer.vocabulary"].value == made.vocab_size == 400
    count = sum(len(made.encode(text)) for text in TEXTS)
    assert metrics["tokenizer.characters_per_token"].value == pytest.approx(sum(map(len, TEXTS)) / count)

    packed = tmp_path / "tokens"
    packed.mkdir()
    words = artifact(out, "tokenizer")
    metrics = tokens.function(TokensSettings(), given, words, out=packed, progress=QUIET).metrics
    store = TokenStore.open(packed)
    assert metrics["tokens.documents"].value == len(TEXTS) == store.num_documents
    assert metrics["tokens.total"].value == store.total == count + 2 * len(TEXTS)
    [(_, _, start, length)] = store.places_of(["1-3"])
    assert made.decode(store.window(start + 1, length - 2).tolist()) == TEXTS[1::2][3]


def test_a_vocabulary_of_the_preset_shrinks_to_what_the_text_supports(tmp_path: Path) -> None:
    given = corpus(tmp_path / "corpus", TEXTS)
    metrics = tokenizer.function(TokenizerSettings(), given, out=tmp_path, progress=QUIET).metrics
    assert 400 < metrics["tokenizer.vocabulary"].value < 8192
    with pytest.raises(KibanError, match="supports a vocabulary of"):
        tokenizer.function(TokenizerSettings(vocabulary=8192), given, out=tmp_path, progress=QUIET)


def test_a_large_corpus_is_sampled(tmp_path: Path) -> None:
    texts = [f"{TEXTS[i % 5]}{i}" for i in range(2000)]
    given = corpus(tmp_path / "corpus", texts)
    settings = TokenizerSettings(vocabulary=400, sample_megabytes=0.05)
    whole = TokenizerSettings(vocabulary=400)
    part = tokenizer.function(settings, given, out=tmp_path, progress=QUIET).metrics["tokenizer.bytes_per_token"].n
    all_of_it = tokenizer.function(whole, given, out=tmp_path, progress=QUIET).metrics["tokenizer.bytes_per_token"].n
    assert part and all_of_it and 3 < all_of_it / part < 10


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KibanError, match="holds no text"):
        tokenizer.function(TokenizerSettings(), corpus(tmp_path / "c", []), out=tmp_path, progress=QUIET)


def test_a_vocabulary_without_room_for_merges_is_no_setting() -> None:
    with pytest.raises(ValidationError):
        TokenizerSettings(vocabulary=320)
