"""What each step reads: a pure function of (seed, step), so there is nothing to save and nothing to replay."""

import numpy as np
import torch
from torch import Tensor

from kiban.artifacts.errors import KibanError
from kiban.artifacts.order import sequence_at
from kiban.tokenizer.packing import Place, TokenStore


class Batches:
    """Sequence i of length L covers tokens [i L, i L + L]: L inputs, and the targets one further. What does not fill a
    sequence at the end is left out.

    Raises:
        KibanError: if the data does not fill one sequence.
    """

    def __init__(self, data: TokenStore, seed: int, batch_sequences: int, length: int) -> None:
        self.data, self.seed, self.batch_sequences, self.length = data, seed, batch_sequences, length
        self.num_sequences = (data.total - 1) // length
        if self.num_sequences < 1:
            raise KibanError(
                f"{data.folder}: {data.total} tokens do not fill one sequence of {length}; "
                "add text, or lower sequence_length in [training]"
            )

    def tokens(self, step: int, wanted: range | None = None) -> Tensor:
        """int64 [batch_sequences, length + 1], or `wanted` of these rows.

        Raises:
            KibanError: if a token is none of the vocabulary that the data names.
        """
        sequences = self._sequences(step)
        if wanted is not None:
            sequences = [sequences[row] for row in wanted]
        rows = [self.data.window(i * self.length, self.length + 1) for i in sequences]
        tokens_BX = np.stack(rows)
        if tokens_BX.max() >= self.data.vocab_size:
            raise KibanError(
                f"{self.data.folder}: holds token {tokens_BX.max()}, but its vocabulary ends at "
                f"{self.data.vocab_size - 1}; the shards are not those that tokens.json describes: pack the text again"
            )
        return torch.from_numpy(tokens_BX.astype(np.int64))

    def documents(self, step: int) -> list[Place]:
        """The documents that the step reads from, without repeats."""
        places = {
            place: None
            for i in self._sequences(step)
            for place in self.data.documents(i * self.length, (i + 1) * self.length + 1)
        }
        return list(places)

    def _sequences(self, step: int) -> list[int]:
        first = step * self.batch_sequences
        return [sequence_at(self.seed, first + row, self.num_sequences) for row in range(self.batch_sequences)]
