"""The training loop. It reads from top to bottom; what it needs stands in files named for what they do.

B batch, X length + 1 (inputs and their targets).
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.model.config import ModelConfig
from kiban.model.transformer import Transformer
from kiban.tokenizer.packing import TokenStore
from kiban.training import checkpoint
from kiban.training.batches import Batches
from kiban.training.flops import flops_per_token, matmul_rate
from kiban.training.interrupts import Interrupts, Stopped
from kiban.training.log import StepLog
from kiban.training.memory import check_memory
from kiban.training.optimiser import optimisers as optimisers_of
from kiban.training.schedule import cosine, wsd
from kiban.training.settings import TrainingSettings


@dataclass(frozen=True)
class Run:
    """What `train` leaves: the model, what of the data it read, and the figures of the run."""

    model: Transformer
    settings: TrainingSettings  # with what followed from rules
    num_steps: int
    num_sequences: int  # in the data
    tokens: int
    seconds: float
    loss: float  # nats/token, mean over the last tenth of the steps
    tokens_per_s: float  # median over the steps, as is mfu
    mfu: float


def train(
    config: ModelConfig, data: TokenStore, settings: TrainingSettings, log: Path, checkpoints: Path, progress: Progress
) -> Run:
    """Trains a model, from the newest checkpoint in `checkpoints` if there is one.

    `log` gets a JSON line a step: step, tokens, loss (nats/token), lr, grad_norm (before clipping), tokens_per_s, mfu,
    seconds, expert_load_max (the largest load of an expert over the mean of its layer: 1 is balance); mtp_loss where
    there is an MTP layer, balance_loss with balance_weight, max_logit (of attention, before clipping) with qk_clip.

    Raises:
        KibanError: if model, data and machine do not fit, or the loss is no longer a number (the documents are named).
        Stopped: on SIGINT or SIGTERM, once the present step is saved.
        OSError: if a checkpoint cannot be written (a full disk); those before it stand.
    """
    settings = settings.resolved(config)
    length, batch_sequences, peak = settings.sequence_length, settings.batch_sequences, settings.learning_rate
    assert length and batch_sequences and peak
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _check(config, data, length)
    check_memory(config, device)
    batches = Batches(data, settings.seed, batch_sequences, length)
    batch_tokens = batch_sequences * length
    num_steps = max(1, settings.tokens // batch_tokens)
    micro_sequences = max(1, settings.micro_batch_tokens // length)
    torch.set_num_threads(settings.threads)

    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(settings.seed))
    model.to(device).train()
    if settings.qk_clip:
        model.watch_logits()
    optimisers = optimisers_of(model, settings.optimiser, peak, settings.weight_decay)

    checkpoints.mkdir(parents=True, exist_ok=True)
    identity = checkpoint.Identity(settings.model_dump(mode="json"), config.model_dump(mode="json"), data.fingerprint)
    position = checkpoint.restore(checkpoints, model, optimisers, identity, progress.say)
    if position is None:
        _say_epochs(num_steps * batch_sequences, batches, batch_sequences, progress)
        position = checkpoint.Position(0, 0.0, matmul_rate(device, torch.float32))
    else:
        progress.say(f"training goes on after step {position.step} of {num_steps}")
    flops_per_step = flops_per_token(config, length) * batch_tokens

    with (
        StepLog(log, position.step) as lines,
        Interrupts() as interrupts,
        progress.task("training", num_steps, "steps") as task,
    ):
        task.update(position.step)
        start = time.perf_counter() - position.seconds
        saved = time.perf_counter()
        for step in range(position.step, num_steps):
            began = time.perf_counter()
            lr = peak * _factor(settings, step, num_steps)
            for group in (group for optimiser in optimisers for group in optimiser.param_groups):
                group["lr"] = lr

            totals: dict[str, float] = {}
            for tokens_BX in batches.tokens(step).split(micro_sequences):
                tokens_BX = tokens_BX.to(device)
                share = len(tokens_BX) / batch_sequences
                loss, stats = model.loss(tokens_BX[:, :-1], tokens_BX[:, 1:], settings.balance_weight)
                (loss * share).backward()
                for name, value in stats.items():
                    totals[name] = totals.get(name, 0.0) + value.item() * share
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip).item()
            if not (math.isfinite(totals["loss"]) and math.isfinite(grad_norm)):
                raise KibanError(_not_a_number(batches, step, totals["loss"], grad_norm))
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            if settings.qk_clip:
                totals["max_logit"] = model.clip_logits(settings.qk_clip)
            load_NE = model.update_routing_bias(settings.bias_rate)

            seconds = time.perf_counter() - began
            record = {
                "step": step + 1,
                "tokens": (step + 1) * batch_tokens,
                **totals,
                "lr": lr,
                "grad_norm": grad_norm,
                "tokens_per_s": batch_tokens / seconds,
                "mfu": flops_per_step / seconds / position.matmul_rate,
                "seconds": time.perf_counter() - start,
                "expert_load_max": (load_NE.amax(-1) / load_NE.float().mean(-1)).max().item(),
            }
            lines.append(record)
            task.note(f"loss {totals['loss']:.3f}")
            task.update(step + 1)

            due = time.perf_counter() - saved > settings.save_every_seconds
            if due or interrupts.seen or step + 1 == num_steps:
                lines.sync()
                now = checkpoint.Position(step + 1, time.perf_counter() - start, position.matmul_rate)
                checkpoint.save(checkpoints, model, optimisers, now, identity)
                saved = time.perf_counter()
            if interrupts.seen and step + 1 < num_steps:
                raise Stopped(interrupts.seen, step + 1)

    last_tenth = [record["loss"] for record in lines.records[-max(1, num_steps // 10) :]]
    return Run(
        model=model,
        settings=settings,
        num_steps=num_steps,
        num_sequences=batches.num_sequences,
        tokens=num_steps * batch_tokens,
        seconds=lines.records[-1]["seconds"],
        loss=sum(last_tenth) / len(last_tenth),
        tokens_per_s=_median([record["tokens_per_s"] for record in lines.records]),
        mfu=_median([record["mfu"] for record in lines.records]),
    )


def _factor(settings: TrainingSettings, step: int, num_steps: int) -> float:
    if settings.schedule == "cosine":
        return cosine(step, num_steps, settings.warmup_share)
    return wsd(step, num_steps, settings.warmup_share, settings.decay_share)


def _check(config: ModelConfig, data: TokenStore, length: int) -> None:
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


def _say_epochs(num_read: int, batches: Batches, batch_sequences: int, progress: Progress) -> None:
    if batch_sequences > batches.num_sequences:
        progress.say(
            f"training: a batch of {batch_sequences} sequences is more than the data holds ({batches.num_sequences}); "
            "every step reads some of it more than once"
        )
    elif num_read > batches.num_sequences:
        progress.say(f"training: reads the data {num_read / batches.num_sequences:.1f} times")


def _not_a_number(batches: Batches, step: int, loss: float, grad_norm: float) -> str:
    names = [place.id for place in batches.documents(step)]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return (
        f"training: loss {loss} and gradient norm {grad_norm} at step {step + 1}; lower learning_rate in [training], "
        f"or look into the documents of that step: {shown}"
    )


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
