"""A model and data small enough to train in seconds, and a run of it in a process of its own."""

import json
import resource
import sys
from pathlib import Path

import numpy as np

from kiban.artifacts.progress import Progress
from kiban.model.config import ModelConfig
from kiban.tokenizer.bpe import Tokenizer
from kiban.tokenizer.packing import TokenStore, pack
from kiban.training.loop import Run, train
from kiban.training.settings import TrainingSettings

VOCABULARY = 360
SETTINGS = {
    "sequence_length": 32,
    "batch_sequences": 4,
    "tokens": 32 * 4 * 40,
    "learning_rate": 0.01,
    "threads": 1,
}


def config(**changes: int | None) -> ModelConfig:
    numbers: dict[str, int | float | None] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "max_position_embeddings": 64,
        "initializer_range": 0.05,
    }
    return ModelConfig(**(numbers | changes))


def texts(number: int = 60) -> list[str]:
    """Regular enough that a small model learns it quickly."""
    rng = np.random.default_rng(3)
    things, verbs = ["箱", "円柱", "部品", "工具", "書類"], ["運ぶ", "調べる", "並べる", "片付ける"]
    return [
        "。".join(f"{rng.choice(things)}を{rng.choice(verbs)}前に{rng.choice(things)}を数える" for _ in range(12))
        for _ in range(number)
    ]


def pack_texts(folder: Path) -> TokenStore:
    folder.mkdir(parents=True)
    tokenizer = Tokenizer.train(texts(), VOCABULARY)
    tokenizer.save(folder)
    list(pack(tokenizer, ((f"id{i}", "test", text) for i, text in enumerate(texts())), folder))
    return TokenStore.open(folder)


def run(folder: Path, progress: Progress | None = None, **settings: object) -> Run:
    """Trains on the tokens in folder/tokens (packed on first use), with log and checkpoints in `folder`."""
    tokens = folder / "tokens"
    data = TokenStore.open(tokens) if tokens.exists() else pack_texts(tokens)
    chosen = TrainingSettings(**(SETTINGS | settings))
    quiet = progress or Progress(quiet=True)
    return train(config(), data, chosen, folder / "log.jsonl", folder / "checkpoints", quiet)


if __name__ == "__main__":
    folder, full_at, settings = [*sys.argv[1:], *("", "{}")[len(sys.argv) - 2 :]]
    if full_at:  # the disk is full for files above so many bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(full_at), resource.RLIM_INFINITY))
    run(Path(folder), **({"save_every_seconds": 0.05} | json.loads(settings)))
