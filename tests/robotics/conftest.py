"""A robot, and a language model that has learned nothing: enough for everything but success rates."""

from pathlib import Path

import pytest
import torch

from kiban.model import hf
from kiban.model.config import ModelConfig
from kiban.model.transformer import Transformer
from kiban.robotics.embodiment import Embodiment, load
from kiban.robotics.stage import INSTRUCTIONS
from kiban.tokenizer.bpe import Tokenizer


@pytest.fixture(scope="session")
def embodiment() -> Embodiment:
    return load("tabletop-arm")


@pytest.fixture(scope="session")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export: a small Transformer with random weights, and a tokenizer trained on the instructions."""
    folder = tmp_path_factory.mktemp("language")
    texts = [INSTRUCTIONS.read_text(encoding="utf-8")] * 4
    tokenizer = Tokenizer.train(texts, vocabulary=600, may_be_smaller=True)
    tokenizer.save(folder)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=64,
        num_attention_heads=2,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        max_position_embeddings=256,
    )
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    hf.save(model, folder)
    return folder
