"""The training loop. Reads from top to bottom; everything that it needs stands in files named for what they do."""

import json
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from kiban.artifacts.errors import KibanError
from kiban.artifacts.hashing import canonical_json, sha256_bytes
from kiban.artifacts.order import sequence_at
from kiban.artifacts.progress import Progress
from kiban.model.config import ModelConfig
from kiban.model.transformer import Transformer
from kiban.tokenizer.packing import TokenStore
from kiban.training import checkpoint
from kiban.training.flops import flops_per_token, matmul_rate
from kiban.training.optimiser import adamw
from kiban.training.schedule import wsd
from kiban.training.settings import TrainingSettings

LOG = "log.jsonl"


@dataclass(frozen=True)
class Run:
    """What `train` leaves: the model, and the figures of the run."""

    model: Transformer
    loss: float  # nats/token, mean of the last tenth of the steps
    tokens: int
    seconds: float
    tokens_per_s: float
    mfu: float
    num_steps: int
    num_sequences: int


def train(
    config: ModelConfig,
    data: TokenStore,
    settings: TrainingSettings,
    log: Path,
    checkpoints: Path,
    progress: Progress,
    initial: Transformer | None = None,
) -> Run:
    """Trains, from the newest checkpoint in `checkpoints` if there is one.

    `log` gets a JSON line a step: step, tokens, loss (nats/token), lr, grad_norm, tokens_per_s, mfu, seconds,
    expert_load_max (over the mean; 1 is balance).

    Raises:
        KibanError: if data and model do not fit, or the loss is no longer a number (the step's documents are named).
        KeyboardInterrupt: on SIGINT or SIGTERM, once the present step is saved.
    """
    length = settings.sequence_length or config.max_position_embeddings
    num_sequences = _check(config, data, length, settings)
    num_steps = max(1, settings.tokens // (settings.batch_sequences * length))
    torch.set_num_threads(settings.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    model = initial or Transformer(config)
    if initial is None:
        model.init_weights(torch.Generator().manual_seed(settings.seed))
    model.to(device).train()
    optimiser = adamw(model, settings.learning_rate, settings.weight_decay)

    fingerprint = sha256_bytes(canonical_json([settings.model_dump(mode="json"), config.model_dump(), data.total]))
    position = checkpoint.restore(checkpoints, model, optimiser, fingerprint, progress.say)
    if position is None:
        rate = matmul_rate(device, torch.float32)
        position = checkpoint.Position(0, 0.0, rate, fingerprint)
    else:
        progress.say(f"going on after step {position.step} of {num_steps}")
    losses = _cut_log(log, position.step)

    batch_tokens = settings.batch_sequences * length
    flops = flops_per_token(config, length)
    start = time.perf_counter() - position.seconds
    saved = time.perf_counter()
    with _Interrupts() as interrupts, log.open("a") as lines, progress.task("training", num_steps, "steps") as task:
        task.update(position.step)
        for step in range(position.step, num_steps):
            began = time.perf_counter()
            lr = settings.learning_rate * wsd(step, num_steps, settings.warmup_share, settings.decay_share)
            for group in optimiser.param_groups:
                group["lr"] = lr

            batch = [_sequence(data, settings, step, i, length, num_sequences) for i in range(settings.batch_sequences)]
            tokens_BX = torch.stack([torch.from_numpy(row.astype("int64")) for row in batch]).to(device)
            loss, stats = model.loss(tokens_BX[:, :-1], tokens_BX[:, 1:])
            loss.backward()
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
            value, norm = stats["loss"].item(), grad_norm.item()
            if not (math.isfinite(value) and math.isfinite(norm)):
                raise KibanError(_not_a_number(data, settings, step, length, num_sequences, value, norm))
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            load = model.update_routing_bias(settings.bias_rate)

            losses.append(value)
            took = time.perf_counter() - began
            line = {
                "step": step + 1,
                "tokens": (step + 1) * batch_tokens,
                "loss": value,
                "lr": lr,
                "grad_norm": norm,
                "tokens_per_s": batch_tokens / took,
                "mfu": flops * batch_tokens / took / position.matmul_rate,
                "seconds": time.perf_counter() - start,
                "expert_load_max": (load.max() / load.float().mean()).item() if load.numel() else 1.0,
            }
            lines.write(json.dumps(line) + "\n")
            lines.flush()
            task.note(f"loss {value:.3f}")
            task.update(step + 1)
            last = step + 1 == num_steps
            if last or interrupts.seen or time.perf_counter() - saved > settings.save_every_seconds:
                now = checkpoint.Position(
                    step + 1, time.perf_counter() - start, position.matmul_rate, position.fingerprint
                )
                checkpoint.save(checkpoints, model, optimiser, now)
                saved = time.perf_counter()
            if interrupts.seen:
                raise KeyboardInterrupt
    return _figures(model, log, losses, num_steps, num_sequences)


def _check(config: ModelConfig, data: TokenStore, length: int, settings: TrainingSettings) -> int:
    """The number of whole sequences in the data."""
    if data.vocab_size != config.vocab_size:
        raise KibanError(
            f"{data.folder}: packed with a vocabulary of {data.vocab_size}, the model has {config.vocab_size}; "
            "pack the text again with the model's tokenizer"
        )
    if length > config.max_position_embeddings:
        raise KibanError(
            f"[training] sequence_length {length} exceeds the model's context of {config.max_position_embeddings}; "
            "lower it, or take a larger preset"
        )
    num_sequences = (data.total - 1) // length
    if num_sequences < 1:
        raise KibanError(
            f"{data.folder}: {data.total} tokens do not fill one sequence of {length}; "
            "add text, or lower sequence_length in [training]"
        )
    return num_sequences


def _sequence(
    data: TokenStore, settings: TrainingSettings, step: int, row: int, length: int, num_sequences: int
) -> Any:
    """Row `row` of step `step`: length + 1 tokens, uint32."""
    sequence = sequence_at(settings.seed, step * settings.batch_sequences + row, num_sequences)
    return data.window(sequence * length, length + 1)


def _not_a_number(
    data: TokenStore, settings: TrainingSettings, step: int, length: int, num_sequences: int, loss: float, norm: float
) -> str:
    names: list[str] = []
    for row in range(settings.batch_sequences):
        sequence = sequence_at(settings.seed, step * settings.batch_sequences + row, num_sequences)
        names += [place.id for place in data.documents(sequence * length, (sequence + 1) * length)]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return (
        f"training: loss {loss} and gradient norm {norm} at step {step + 1}; lower learning_rate in [training]; "
        f"documents of that step: {shown}"
    )


def _cut_log(log: Path, step: int) -> list[float]:
    """Drops the lines after `step` (they will be done again); gives the losses up to it."""
    if not log.exists():
        return []
    kept = []
    for line in log.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # the line that a kill cut off
            break
        if record["step"] > step:
            break
        kept.append(record)
    log.write_text("".join(json.dumps(record) + "\n" for record in kept))
    return [record["loss"] for record in kept]


def _figures(model: Transformer, log: Path, losses: list[float], num_steps: int, num_sequences: int) -> Run:
    records = [json.loads(line) for line in log.read_text().splitlines()]
    rates = sorted(record["tokens_per_s"] for record in records)
    mfus = sorted(record["mfu"] for record in records)
    tail = losses[-max(1, num_steps // 10) :]
    return Run(
        model=model,
        loss=sum(tail) / len(tail),
        tokens=records[-1]["tokens"],
        seconds=records[-1]["seconds"],
        tokens_per_s=rates[len(rates) // 2],
        mfu=mfus[len(mfus) // 2],
        num_steps=num_steps,
        num_sequences=num_sequences,
    )


class _Interrupts:
    """Turns SIGINT and SIGTERM into a flag, so that the step is finished and saved. A second one acts at once."""

    def __enter__(self) -> "_Interrupts":
        self.seen = False
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread
                pass
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.seen:
            raise KeyboardInterrupt
        self.seen = True

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
