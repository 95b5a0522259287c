"""The training loop. It reads from top to bottom; what it needs stands in files named for what they do.

B batch, X length + 1 (inputs and their targets).
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.model.config import ModelConfig
from kiban.model.hf import load_into
from kiban.model.layout import Layout
from kiban.model.transformer import Transformer
from kiban.tokenizer.packing import TokenStore
from kiban.training.batches import Batches
from kiban.training.checkpoint import Checkpoints, Identity, Position, digest_of
from kiban.training.distributed import agree, ranks_with
from kiban.training.faults import WINDOW, fault_of, too_many
from kiban.training.flops import flops_per_token, matmul_rate
from kiban.training.interrupts import Interrupts, Stopped
from kiban.training.layout import check_layout
from kiban.training.live import live
from kiban.training.log import StepLog
from kiban.training.memory import check_memory, peak_bytes
from kiban.training.optimiser import optimisers as optimisers_of
from kiban.training.parallelize import Parallel, parallelize
from kiban.training.profiler import profiled
from kiban.training.schedule import cosine, wsd
from kiban.training.settings import TrainingSettings
from kiban.training.trackers import Plug, TensorBoard, Tracker, Trackers
from kiban.training.workers import Workers

REMEDY = "lower learning_rate in [training], set on_nan or on_spike to skip or rollback"


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
    excluded: list[list[int]]  # first and last step of each range whose batches left no trace in the weights


@dataclass(frozen=True)
class Watching:
    """What a run is watched with beside its log."""

    tensorboard: Path | None = None  # a folder
    tracker: str | None = None  # a module with wandb's calls
    profile: Path | None = None  # where the trace of a few steps goes


def train(
    config: ModelConfig,
    data: TokenStore,
    settings: TrainingSettings,
    log: Path,
    checkpoints: Path,
    progress: Progress,
    initial: Path | None = None,
    watching: Watching = Watching(),
    layout: Layout | None = None,
) -> Run:
    """Trains a model, from the newest checkpoint in `checkpoints` if there is one, else from the weights in `initial`
    (a folder in the Hugging Face layout), else from the seed.

    With a `layout` it is one of the ranks that torchrun started, inside `distributed.process_group`. All read the same
    order of data whatever their number; the first alone writes the log, and gets the whole model in the end. Where
    pipeline stages are several, the first's experts are those whose load is logged.

    `log` gets a JSON line a step: step, tokens, loss (nats/token), lr, grad_norm (before clipping), tokens_per_s, mfu,
    seconds, memory_bytes (the most held so far), expert_load_max (the largest load of an expert over the mean of its
    layer: 1 is balance); mtp_loss where there is an MTP layer, balance_loss with balance_weight, max_logit (of
    attention, before clipping) with qk_clip; fault (nan or spike) where a step was skipped or rolled back.

    Raises:
        KibanError: if model, data and machine do not fit, or at a fault that the settings do not pass over (the
            documents are named).
        Stopped: on SIGINT or SIGTERM, once the present step is saved.
        OSError: if the last checkpoint cannot be written (a full disk); those before it stand.
    """
    settings = settings.resolved(config)
    length, batch_sequences, peak = settings.sequence_length, settings.batch_sequences, settings.learning_rate
    assert length and batch_sequences and peak and settings.dtype
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if layout is not None and device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    ranks, first = (layout.gpus, dist.get_rank() == 0) if layout else (1, True)
    _check(config, data, length)
    if layout is not None:
        check_layout(config, layout, length, batch_sequences)
    micro_sequences = max(1, settings.micro_batch_tokens // length)
    number = 1 if device.type == "cuda" or layout else min(settings.threads, micro_sequences, batch_sequences)
    check_memory(config, device, number, settings.dtype != "float32", ranks)
    batches = Batches(data, settings.seed, batch_sequences, length)
    batch_tokens = batch_sequences * length
    num_steps = max(1, settings.tokens // batch_tokens)
    torch.set_num_threads(settings.threads)

    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(settings.seed))
    model.dtype = getattr(torch, settings.dtype)
    if initial and layout:
        load_into(model, initial, progress.say)
    model.to(device).train()
    if settings.qk_clip:
        model.watch_logits()
    parallel = parallelize(model, layout, length, batch_sequences, device.type) if layout else None
    optimisers = optimisers_of(model, settings.optimiser, peak, settings.weight_decay)

    identity = Identity(
        settings.model_dump(mode="json"),
        config.model_dump(mode="json"),
        data.fingerprint,
        digest_of(initial) if initial else None,
    )
    group = dist.new_group(backend="gloo") if layout else None
    saved = Checkpoints(checkpoints, identity, settings.keep_checkpoints, progress.say, group)
    position = saved.restore(model, optimisers)
    if position is None:
        if initial and not layout:
            load_into(model, initial, progress.say)
        _say_epochs(num_steps * batch_sequences, batches, batch_sequences, progress)
        position = Position(0, 0.0, matmul_rate(device, model.dtype))
    else:
        progress.say(f"training goes on after step {position.step} of {num_steps}")
    trackers: dict[str, Tracker] = {}
    if watching.tensorboard and first:
        trackers["TensorBoard"] = TensorBoard(watching.tensorboard, position.step)
    if watching.tracker and first:
        known = settings.model_dump(mode="json") | {"model": config.model_dump(mode="json")}
        trackers[watching.tracker] = Plug(watching.tracker, log.parent.name, log.parent, known, position.step)
    flops_per_step = flops_per_token(config, length) * batch_tokens
    excluded = [list(steps) for steps in position.excluded]

    with (
        Trackers(trackers, progress.say) as followers,
        StepLog(log, position.step, first) as lines,
        Interrupts() as interrupts,
        Workers(model, number, settings.threads) as workers,
        live(progress, num_steps, lines.records) as view,
        profiled(watching.profile if first else None, progress.say) as profiler,
    ):
        start = time.perf_counter() - position.seconds
        last_save = time.perf_counter()
        for step in range(position.step, num_steps):
            began = time.perf_counter()
            lr = peak * _factor(settings, step, num_steps)
            for group in (group for optimiser in optimisers for group in optimiser.param_groups):
                group["lr"] = lr * group["scale"]

            if parallel is not None:
                sums = _parallel_sums(parallel, batches, step, micro_sequences, settings, device)
            else:
                sums = _sums(model, workers, batches, step, micro_sequences, settings, device)
            totals = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))

            fault = fault_of(totals["loss"], totals["grad_norm"], _losses(lines, WINDOW))
            action = {"nan": settings.on_nan, "spike": settings.on_spike, None: "ignore"}[fault]
            if action != "ignore":
                said = f"training: {_described(fault, totals)} at step {step + 1}{_whose(parallel)}"
                places = f"documents of that step: {_documents(batches, step)}"
                if action == "stop" or too_many(excluded, step):
                    saved.wait()
                    raise KibanError(f"{said}; {REMEDY}, or look into the {places}")
                before = saved.restore(model, optimisers) if action == "rollback" else None
                if action == "rollback" and before is None:
                    raise KibanError(f"{said}, and there is no checkpoint to go back to; {REMEDY}; {places}")
                excluded.append([before.step + 1 if before else step + 1, step + 1])
                done = f"weights are again those of step {before.step}" if before else "its update is skipped"
                progress.say(f"{said}: {done}; {places}")
            else:
                for optimiser in optimisers:
                    optimiser.step()
            if settings.qk_clip:
                totals["max_logit"] = model.clip_logits(settings.qk_clip if action == "ignore" else math.inf)
                if parallel is not None:
                    [totals["max_logit"]] = agree(totals["max_logit"])
            load_NE = model.update_routing_bias(settings.bias_rate if action == "ignore" else 0.0)
            workers.refresh()

            seconds = time.perf_counter() - began
            record = {
                "step": step + 1,
                "tokens": (step + 1) * batch_tokens,
                **totals,
                "lr": lr,
                "tokens_per_s": batch_tokens / seconds,
                "mfu": flops_per_step / seconds / position.matmul_rate / ranks,
                "seconds": time.perf_counter() - start,
                "memory_bytes": peak_bytes(device),
                **({"expert_load_max": _imbalance(load_NE)} if len(load_NE) else {}),
                **({"fault": fault} if action != "ignore" else {}),
            }
            lines.append(record)
            followers.log(record, step + 1)
            view.update(record | {"expert_load": load_NE.tolist()})
            profiler.step()

            permanent = settings.permanent_every is not None and (step + 1) % settings.permanent_every == 0
            due = time.perf_counter() - last_save > settings.save_every_seconds or permanent or action == "rollback"
            seen = interrupts.seen
            if parallel is not None:
                any_due, signal = agree(due, seen or 0)
                due, seen = any_due > 0, int(signal)
            if due or seen or step + 1 == num_steps:
                lines.sync()
                now = Position(step + 1, time.perf_counter() - start, position.matmul_rate, [*excluded])
                saved.save(model, optimisers, now, permanent)
                view.saved(step + 1)
                last_save = time.perf_counter()
            if seen and step + 1 < num_steps:
                saved.wait()
                raise Stopped(seen, step + 1)
    saved.wait()
    if layout is not None:
        model = saved.whole_model(config) if first else model

    last_tenth = [loss for loss in _losses(lines, max(1, num_steps // 10)) if math.isfinite(loss)]
    return Run(
        model=model,
        settings=settings,
        num_steps=num_steps,
        num_sequences=batches.num_sequences,
        tokens=num_steps * batch_tokens,
        seconds=lines.records[-1]["seconds"],
        loss=sum(last_tenth) / len(last_tenth) if last_tenth else math.nan,
        tokens_per_s=_median([record["tokens_per_s"] for record in lines.records]),
        mfu=_median([record["mfu"] for record in lines.records]),
        excluded=excluded,
    )


def _sums(
    model: Transformer,
    workers: Workers,
    batches: Batches,
    step: int,
    micro_sequences: int,
    settings: TrainingSettings,
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """Leaves the gradient of a step, clipped; gives its losses and the norm."""
    sums: dict[str, torch.Tensor] = {}
    for part, tokens_BX in enumerate(batches.tokens(step).split(micro_sequences)):
        share = len(tokens_BX) / batches.batch_sequences
        stats = workers.backward(
            tokens_BX.to(device), share, settings.balance_weight, part == 0, settings.mask_documents
        )
        sums = {name: sums.get(name, 0.0) + value for name, value in stats.items()}
    return sums | {"grad_norm": torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)}


def _parallel_sums(
    parallel: Parallel,
    batches: Batches,
    step: int,
    micro_sequences: int,
    settings: TrainingSettings,
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """As `_sums`, on one of several ranks."""
    parallel.model.zero_grad()
    tokens_BX = batches.tokens(step, parallel.rows(batches.batch_sequences)).to(device)
    sums = parallel.backward(tokens_BX, micro_sequences, settings.balance_weight, settings.mask_documents)
    sums["grad_norm"] = parallel.clip_grad_norm(settings.grad_clip)
    parallel.sum_counts()
    return sums


def _whose(parallel: Parallel | None) -> str:
    """The ranks whose part of the loss is no number."""
    if parallel is None:
        return ""
    ranks = ranks_with(not parallel.own_losses.isfinite().all())
    return f" on rank {', '.join(map(str, ranks))}" if ranks else ""


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


def _losses(lines: StepLog, number: int) -> list[float]:
    return [record["loss"] for record in lines.records[-number:]]


def _described(fault: str | None, totals: dict[str, float]) -> str:
    kind = "a loss spike, " if fault == "spike" else ""
    return f"{kind}loss {totals['loss']:.4g} and gradient norm {totals['grad_norm']:.4g}"


def _documents(batches: Batches, step: int) -> str:
    names = [place.id for place in batches.documents(step)]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _imbalance(load_NE: torch.Tensor) -> float:
    return (load_NE.amax(-1) / load_NE.float().mean(-1)).max().item()


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
