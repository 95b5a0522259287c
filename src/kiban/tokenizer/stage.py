"""The stages `tokenizer` (corpus -> vocabulary and merges) and `tokens` (corpus -> packed shards)."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from kiban.artifacts.errors import KibanError
from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import Progress, Task
from kiban.artifacts.stage import Outcome, Settings, stage
from kiban.artifacts.store import Artifact


class TokenizerSettings(Settings):
    """`[tokenizer]`. A `vocabulary` that is given is exact, and an error where the text does not support it. Without it
    the vocabulary is as large as the text supports, `at_most` of which follows from the model's preset."""

    vocabulary: int | None = Field(default=None, gt=320, le=2**20)
    at_most: int = Field(default=8192, gt=320, le=2**20)
    sample_megabytes: float = Field(default=128.0, gt=0)  # of UTF-8 text
    second_stage: float = Field(default=0.3, ge=0, lt=1)  # the share of merges over clauses; 0: text is cut by words


class TokensSettings(Settings):
    """`[tokens]`: nothing to set; every document of the corpus is packed, in its order."""


@stage("tokenizer", inputs=("corpus",), version=3, use="pretrain")
def tokenizer(settings: TokenizerSettings, corpus: Artifact, out: Path, progress: Progress) -> Outcome:
    """Learns merges from the corpus: from all of it, or from every n-th document where it is larger than the sample."""
    from kiban.tokenizer.bpe import Tokenizer

    every = _every(corpus, settings.sample_megabytes)
    with progress.task("learning merges", None, "documents") as task:
        texts = _sample(corpus, every, task)
        if settings.vocabulary is not None:
            made = Tokenizer.train(texts, settings.vocabulary, second_stage=settings.second_stage)
        else:
            made = Tokenizer.train(texts, settings.at_most, may_be_smaller=True, second_stage=settings.second_stage)
    made.save(out)
    characters = num_bytes = tokens = 0
    with progress.task("measuring", None, "documents") as task:
        for text in _sample(corpus, every, task):
            characters += len(text)
            num_bytes += len(text.encode())
            tokens += len(made.encode(text))
    if not tokens:
        raise KibanError(f"{corpus.name}: holds no text; look into its ledger for what was dropped and why")
    return Outcome(
        {
            "tokenizer.vocabulary": Metric(value=made.vocab_size, unit="entries"),
            "tokenizer.characters_per_token": Metric(value=characters / tokens, unit="characters/token", n=tokens),
            "tokenizer.bytes_per_token": Metric(value=num_bytes / tokens, unit="bytes/token", n=tokens),
        }
    )


@stage("tokens", inputs=("corpus", "tokenizer"), version=3, use="pretrain")
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
            "tokens.documents": Metric(value=store.num_documents, unit="documents"),
        }
    )


def _shards(corpus: Artifact) -> list[Path]:
    return sorted((corpus.path / "shards").glob("*.parquet"))


def _documents(corpus: Artifact, columns: list[str]) -> Iterator[dict[str, str]]:
    import pyarrow.parquet as pq

    for path in _shards(corpus):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256, columns=columns):
                yield from batch.to_pylist()


def _every(corpus: Artifact, megabytes: float) -> int:
    """n, so that every n-th document makes a sample of about that size."""
    import pyarrow.parquet as pq

    size = 0
    for path in _shards(corpus):
        metadata = pq.read_metadata(path)
        text = metadata.schema.names.index("text")
        size += sum(metadata.row_group(g).column(text).total_uncompressed_size for g in range(metadata.num_row_groups))
    return max(1, round(size / (megabytes * 1e6)))


def _sample(corpus: Artifact, every: int, task: Task) -> Iterator[str]:
    for number, document in enumerate(_documents(corpus, ["text"])):
        if number % every == 0:
            task.advance()
            yield document["text"]
