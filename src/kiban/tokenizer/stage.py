"""The stages `tokenizer` (corpus -> vocabulary and merges) and `tokens` (corpus -> packed shards)."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import Progress
from kiban.artifacts.stage import Outcome, Settings, stage
from kiban.artifacts.store import Artifact


class TokenizerSettings(Settings):
    """`[tokenizer]`. `vocabulary` follows from the model's preset unless it is given."""

    vocabulary: int = Field(8192, gt=320, le=2**20)
    sample_megabytes: float = Field(64.0, gt=0)


class TokensSettings(Settings):
    """`[tokens]`."""


@stage("tokenizer", inputs=("corpus",), version=1, use="pretrain")
def tokenizer(settings: TokenizerSettings, corpus: Artifact, out: Path, progress: Progress) -> Outcome:
    """Learns merges from the corpus: from all of it, or from every n-th document where it is larger than the sample."""
    from kiban.tokenizer.bpe import Tokenizer

    texts = list(_sample(corpus, settings.sample_megabytes))
    progress.say(f"tokenizer: learning {settings.vocabulary} entries from {len(texts)} documents")
    made = Tokenizer.train(texts, settings.vocabulary)
    made.save(out)
    characters = sum(map(len, texts))
    num_bytes = sum(len(text.encode()) for text in texts)
    tokens = sum(len(ids) for ids in made.encode_batch(texts))
    return Outcome(
        {
            "tokenizer.vocabulary": Metric(value=made.vocab_size, unit="entries"),
            "tokenizer.characters_per_token": Metric(value=characters / tokens, unit="characters/token", n=tokens),
            "tokenizer.bytes_per_token": Metric(value=num_bytes / tokens, unit="bytes/token", n=tokens),
        }
    )


@stage("tokens", inputs=("corpus", "tokenizer"), version=1, use="pretrain")
def tokens(settings: TokensSettings, corpus: Artifact, tokenizer: Artifact, out: Path, progress: Progress) -> Outcome:
    """Encodes and packs every document of the corpus, in its order."""
    from kiban.tokenizer.bpe import Tokenizer
    from kiban.tokenizer.packing import TokenStore, pack

    documents = ((d["id"], d["source"], d["text"]) for d in _documents(corpus, ["id", "source", "text"]))
    with progress.task("packing", None, "tokens") as task:
        for total in pack(Tokenizer.load(tokenizer.path), documents, out):
            task.update(total)
    store = TokenStore.open(out)
    return Outcome(
        {
            "tokens.total": Metric(value=store.total, unit="tokens"),
            "tokens.documents": Metric(value=len(store.documents(0, store.total)), unit="documents"),
        }
    )


def _documents(corpus: Artifact, columns: list[str]) -> Iterator[dict[str, str]]:
    import pyarrow.parquet as pq

    for path in sorted((corpus.path / "shards").glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=columns):
            yield from batch.to_pylist()


def _sample(corpus: Artifact, megabytes: float) -> Iterator[str]:
    import pyarrow.parquet as pq

    paths = sorted((corpus.path / "shards").glob("*.parquet"))
    size = sum(
        pq.ParquetFile(path).metadata.row_group(group).total_byte_size
        for path in paths
        for group in range(pq.ParquetFile(path).metadata.num_row_groups)
    )
    every = max(1, round(size / (megabytes * 1e6)))
    for number, document in enumerate(_documents(corpus, ["text"])):
        if number % every == 0:
            yield document["text"]
