from pathlib import Path

import numpy as np
import pytest

from kiban.artifacts.errors import KibanError
from kiban.tokenizer.packing import TokenStore
from kiban.training.batches import Batches
from tests.training import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return tiny.pack_texts(tmp_path_factory.mktemp("packed") / "tokens")


def test_an_epoch_reads_every_sequence_once(data: TokenStore) -> None:
    batches = Batches(data, seed=3, batch_sequences=1, length=64)
    n = batches.num_sequences
    assert n == (data.total - 1) // 64
    for epoch in (0, 1):
        read = {tuple(batches.tokens(step)[0].tolist()) for step in range(epoch * n, (epoch + 1) * n)}
        assert read == {tuple(data.window(i * 64, 65).tolist()) for i in range(n)}
    assert [batches.tokens(step).tolist() for step in range(5)] == [
        Batches(data, 3, 1, 64).tokens(step).tolist() for step in range(5)
    ]
    assert batches.tokens(0).tolist() != Batches(data, 4, 1, 64).tokens(0).tolist()


def test_documents_of_a_step_are_those_whose_tokens_it_reads(data: TokenStore) -> None:
    batches = Batches(data, seed=3, batch_sequences=2, length=96)
    for step in range(10):
        named = batches.documents(step)
        assert len(named) == len(set(named))
        read = {tuple(row.tolist()) for row in batches.tokens(step)}
        covered = [
            place
            for i in range(batches.num_sequences)
            if tuple(data.window(i * 96, 97).tolist()) in read
            for place in data.documents(i * 96, i * 96 + 97)
        ]
        assert set(named) == set(covered)


def test_shards_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    tiny.pack_texts(tmp_path / "tokens")
    shard = tmp_path / "tokens" / "shard-00000.bin"
    tokens = np.fromfile(shard, "<u4")
    tokens[-1] = tokens[0] = tiny.VOCABULARY
    tokens.tofile(shard)
    with pytest.raises(KibanError, match=f"holds token {tiny.VOCABULARY}, but its vocabulary ends"):
        Batches(TokenStore.open(tmp_path / "tokens"), 0, 1, len(tokens) - 1).tokens(0)


def test_too_few_tokens_for_one_sequence(data: TokenStore) -> None:
    with pytest.raises(KibanError, match=f"{data.total} tokens do not fill one sequence of {data.total}"):
        Batches(data, 0, 1, data.total)
    assert Batches(data, 0, 1, data.total - 1).num_sequences == 1
