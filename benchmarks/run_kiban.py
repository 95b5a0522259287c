"""Contestant: Kiban's own training loop, as `kiban train` runs it; the figures come from its log."""

import json
from pathlib import Path

import torch
from bits_per_character import bits_per_character
from peer_loop import answer, job

from kiban import __version__
from kiban.artifacts.progress import Progress
from kiban.model.config import ModelConfig
from kiban.tokenizer.packing import TokenStore
from kiban.training.loop import train
from kiban.training.settings import TrainingSettings

job = job()
folder = Path(job["out"]).parent
settings = job["settings"] | job["variant"]
missing = set(settings) - set(TrainingSettings.model_fields)
if missing:
    raise SystemExit(f"[training] has no {', '.join(sorted(missing))} in this version of Kiban")
data = TokenStore.open(Path(job["tokens"]))
log = folder / "log.jsonl"
model = train(
    ModelConfig(**job["config"]),
    data,
    TrainingSettings(**settings),
    log,
    folder / "checkpoints",
    Progress(quiet=True),
).model.eval()
records = [json.loads(line) for line in log.read_text().splitlines()]
batch_tokens = records[0]["tokens"]
answer(
    job,
    losses=[record["loss"] for record in records],
    seconds=[batch_tokens / record["tokens_per_s"] for record in records],
    bits_per_character={
        part: bits_per_character(lambda tokens_BL: model.logits(model(tokens_BL)), path)
        for part, path in job.get("windows", {}).items()
    },
    versions={"kiban": __version__, "torch": torch.__version__},
)
