"""A model small enough to be made in a moment, and what it takes to ask it."""

from pathlib import Path

import torch

from kiban.evaluation.answers import Answers
from kiban.evaluation.backbones import KibanBackbone, KibanWords
from kiban.evaluation.models import LocalModel, locate
from kiban.evaluation.scoring import Scorer
from kiban.model import hf
from kiban.model.transformer import Transformer
from kiban.tokenizer.bpe import Tokenizer
from tests.training import tiny


def tokenizer() -> Tokenizer:
    return Tokenizer.train(tiny.texts(), tiny.VOCABULARY)


def transformer(seed: int = 0, **changes: int) -> Transformer:
    model = Transformer(tiny.config(initializer_range=0.2, **changes))  # type: ignore[arg-type]
    model.init_weights(torch.Generator().manual_seed(seed))
    return model


def scorer(batch_tokens: int | None = None, **changes: int) -> Scorer:
    return Scorer(KibanBackbone(transformer(**changes)), KibanWords(tokenizer()), batch_tokens)


def exported(folder: Path, seed: int = 0, **changes: int) -> Path:
    hf.save(transformer(seed, **changes), folder)
    tokenizer().save(folder)
    return folder


def answers(folder: Path, cache: Path | None = None, processes: int = 1) -> Answers:
    return Answers(LocalModel(locate(folder), processes), cache)
