"""Log-likelihoods of text under a model, in nats. The same in any batch size, up to the last bits of float32."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from kiban.artifacts.errors import KibanError
from kiban.model import hf
from kiban.model.transformer import Transformer
from kiban.tokenizer.bpe import Tokenizer

BATCH_TOKENS = 8192


@dataclass(frozen=True)
class TextScore:
    """`log_likelihood` in nats; every token after the first (BOS) counts once; characters are code points."""

    log_likelihood: float
    tokens: int
    characters: int

    @property
    def bits_per_character(self) -> float:
        return -self.log_likelihood / math.log(2) / self.characters


class Words(Protocol):
    """What the scorer needs of a tokenizer."""

    bos_id: int

    def encode(self, text: str) -> list[int]: ...


class Scorer:
    """Scores with `model` and its tokenizer. A sequence begins with BOS."""

    def __init__(self, model: Transformer, words: Words) -> None:
        self.model, self.words = model.eval(), words
        self.context = model.config.max_position_embeddings

    @staticmethod
    def load(folder: Path) -> "Scorer":
        """Raises KibanError if `folder` is no exported model."""
        if not (folder / "config.json").is_file():
            raise KibanError(f"{folder}: holds no config.json; give a folder that `kiban export` wrote")
        return Scorer(hf.load(folder), Tokenizer.load(folder))

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, int]]:
        """For (context, continuation): log p(continuation | BOS context) in nats, and its number of tokens.

        The two are encoded together, and what is not a whole token of the context counts for the continuation, so that
        no cut inside a token gives the text away. A context too long for the model is cut off at the left.

        Raises:
            KibanError: if a continuation alone exceeds the model's context.
        """
        sequences, counted = [], []
        for context, continuation in pairs:
            whole = self.words.encode(context + continuation)
            before = self.words.encode(context)
            common = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
            fresh = len(whole) - min(common, len(whole))
            if fresh >= self.context:
                raise KibanError(
                    f"a choice of {fresh} tokens exceeds the model's context of {self.context}; shorten it"
                )
            sequences.append([self.words.bos_id, *whole])
            counted.append(fresh)
        scored = self._scores([sequence[-self.context :] for sequence in sequences])
        return [(sum(scores[len(scores) - n :]), n) for scores, n in zip(scored, counted, strict=True)]

    def texts(self, texts: Sequence[str]) -> list[TextScore]:
        """Whole texts of any length, by windows with half a context of stride: each token is scored once, in the window
        that shows it the most before it."""
        windows, owners = [], []
        for number, text in enumerate(texts):
            if not text:
                raise KibanError("an empty text has no score; give at least one character")
            ids = [self.words.bos_id, *self.words.encode(text)]
            stride = self.context // 2
            scored = 1  # tokens [0, scored) are done; the first needs no score
            start = 0
            while scored < len(ids):
                stop = min(start + self.context, len(ids))
                windows.append(ids[start:stop])
                owners.append((number, stop - scored))
                scored = stop
                start += stride
        sums, counts = [0.0] * len(texts), [0] * len(texts)
        for (number, fresh), scores in zip(owners, self._scores(windows), strict=True):
            sums[number] += sum(scores[len(scores) - fresh :])
            counts[number] += fresh
        return [TextScore(s, n, len(text)) for s, n, text in zip(sums, counts, texts, strict=True)]

    @torch.inference_mode()
    def _scores(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        """log p of every token but the first, for each sequence.

        Sequences of like length are scored together, and those that differ in the last token alone in one pass.
        """
        out: list[list[float]] = [[] for _ in sequences]
        owners: dict[tuple[int, ...], list[int]] = {}
        for i, sequence in enumerate(sequences):
            owners.setdefault(tuple(sequence[:-1]), []).append(i)
        order = sorted(owners, key=len)
        while order:
            longest = len(order[-1])
            batch = order[-max(1, BATCH_TOKENS // longest) :]
            del order[-len(batch) :]
            tokens_BL = torch.zeros(len(batch), longest, dtype=torch.long)
            for row, given in enumerate(batch):
                tokens_BL[row, : len(given)] = torch.tensor(given)
            hidden_BLD = self.model(tokens_BL)
            for row, given in enumerate(batch):
                log_probs_LV = self.model.logits(hidden_BLD[row, : len(given)]).float().log_softmax(-1)
                for i in owners[given]:
                    target_L = torch.tensor(sequences[i][1:])
                    out[i] = log_probs_LV.gather(1, target_L[:, None])[:, 0].double().tolist()
        return out
