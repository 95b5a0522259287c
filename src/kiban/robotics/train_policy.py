"""The policy's training loop. Every random number is a function of (seed, step), so a run that was killed goes on from
its last checkpoint to the same weights, bit for bit, on the same processor and number of threads."""

import copy
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_atomic, write_json
from kiban.artifacts.progress import Progress
from kiban.artifacts.store import WORK
from kiban.robotics.agent import LANGUAGE, Network, PolicyDescription, build, save_policy
from kiban.robotics.distil import distillation_loss, expert_parameters
from kiban.robotics.examples import PIXELS, Batch, Examples, Frames, Instructions, Recorded, robots_of
from kiban.robotics.language import Reader
from kiban.robotics.policy import Policy
from kiban.robotics.policy_config import PolicyConfig, PolicyKind
from kiban.robotics.stage import PolicySettings

LEARNING_RATES: dict[PolicyKind, float] = {"kiban": 2e-3, "act": 5e-4, "diffusion": 1e-3}
LANGUAGE_SHARE = 0.05  # of the learning rate, for a language model that learns on
WARM_UP = 100  # steps
WEIGHT_DECAY = 1e-2
LOG_EVERY, SAVE_EVERY = 50, 250  # steps
HELD_OUT_FRAMES = 256  # of each dataset, on which the held-out loss is measured
BRIGHTNESS = 0.1  # pictures' contrast is raised or lowered by up to this share
DISTIL_SHARE, DISTIL_RATE = 0.1, 1e-3  # of the steps, for distillation; its learning rate
CHECKPOINT, RUN = "checkpoint.safetensors", "run.json"

Log = list[dict[str, float]]


class Sizes(BaseModel):
    """What may be chosen of the network; see `PolicyConfig`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chunk: int = 8
    width: int = 96
    layers: int = 3
    channels: int = 32
    vision_blocks: int = 1
    pixels: int = PIXELS


@dataclass(frozen=True)
class Trained:
    loss: float
    held_out_loss: float | None
    parameters: int
    frames_per_s: float


def train_from(
    settings: PolicySettings,
    datasets: Sequence[Path],
    tasks: tuple[str, ...],
    language: Path,
    address: str,
    out: Path,
    work: Path,
    progress: Progress,
    sizes: Sizes | None = None,
) -> Trained:
    """Trains one policy for all robots of `datasets`, reading through the language model in `language`, into `out`.

    `work` holds what a run that was killed goes on from.

    Raises:
        KibanError: if a dataset is not whole or not fit to train on, or `work` is another run's.
    """
    sizes = sizes or Sizes()
    reader = Reader.load(language)
    recorded = [Recorded.read(path, work / f"{i:03d}", sizes.pixels) for i, path in enumerate(datasets)]
    robots, normalisers = robots_of(recorded)
    network = PolicyConfig(
        kind=settings.network,
        robots=robots,
        language=reader.num_features,
        **sizes.model_dump(exclude={"pixels"}),
    )
    description = PolicyDescription(
        tasks=tasks,
        language=address,
        language_trained=settings.train_language,
        network=network,
        normalisers=normalisers,
        euler_steps=settings.euler_steps,
        distilled=settings.distil,
        execute=max(1, network.chunk // 2),
    )
    _same_run(work / RUN, {"settings": settings.model_dump(mode="json"), "policy": description.model_dump(mode="json")})
    frames = [Frames(o, normalisers[o.robot.name], network.chunk, settings.held_out, settings.seed) for o in recorded]
    sentences = [sentence for one in recorded for sentence in one.sentences]
    examples = Examples(frames, Instructions(reader, sentences, settings.train_language))

    threads_before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            policy = build(network)
        learning = [reader.model] if settings.train_language else []
        log, rate = train(policy, examples, settings.steps, settings.batch, settings.seed, work, progress, learning)
        if settings.distil:
            assert isinstance(policy, Policy)  # as the settings have it
            log += distil(policy, examples, settings, work, progress)
    finally:
        torch.set_num_threads(threads_before)
    save_policy(policy, description, out)
    if settings.train_language:
        reader.save(out / LANGUAGE)
    write_atomic(out / "log.jsonl", "".join(json.dumps(row) + "\n" for row in log))
    trained = [row for row in log if "loss" in row]
    return Trained(
        trained[-1]["loss"], trained[-1].get("held_out_loss"), sum(p.numel() for p in policy.parameters()), rate
    )


def keep_language(language: Path, out: Path) -> None:
    """Puts the language model beside the policy in `out`, unless it has one of its own there: so the folder is whole.
    Ends the run: what it could have gone on from is deleted."""
    if not (out / LANGUAGE).is_dir():
        part = out / f".{LANGUAGE}.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(language, part)
        part.rename(out / LANGUAGE)
    shutil.rmtree(out / WORK, ignore_errors=True)


def _same_run(path: Path, run: dict[str, object]) -> None:
    """Raises KibanError if `path` tells of another run than `run`."""
    if not path.exists():
        write_json(path, run)
    elif read_json(path) != run:
        raise KibanError(
            f"{path.parent}: is of a run with other settings or data; give those, or delete it to begin anew"
        )


def train(
    policy: Network,
    examples: Examples,
    steps: int,
    batch: int,
    seed: int,
    work: Path,
    progress: Progress,
    learning: Sequence[nn.Module] = (),
) -> tuple[Log, float]:
    """Trains `policy` in place from its last checkpoint in `work`; gives the log and this process's frames a second.

    `learning` are modules that learn with it, at LANGUAGE_SHARE of its rate. The log has a row every LOG_EVERY steps:
    step, loss (mean since the last row), learning rate; and held_out_loss where episodes are held out.
    """
    named = [(f"policy.{name}", p) for name, p in policy.named_parameters()]
    others = [(f"other{i}.{name}", p) for i, module in enumerate(learning) for name, p in module.named_parameters()]
    groups = [{"params": [p for _, p in named], "share": 1.0}]
    if others:
        groups.append({"params": [p for _, p in others], "share": LANGUAGE_SHARE})
    peak = LEARNING_RATES[policy.config.kind]
    optimiser = torch.optim.AdamW(groups, peak, (0.9, 0.95), weight_decay=WEIGHT_DECAY)
    checkpoint = Checkpoint(work / CHECKPOINT, [*named, *others], optimiser)
    log, losses, first = checkpoint.resume()
    policy.train()
    start = time.monotonic()
    with progress.task("policy", steps * batch, "frames") as bar, torch.random.fork_rng(devices=[]):
        bar.update(first * batch)
        for step in range(first, steps):
            generator = torch.Generator().manual_seed((seed << 24) + step)
            chosen = torch.randint(len(examples), (batch,), generator=generator)
            for group in optimiser.param_groups:
                group["lr"] = group["share"] * peak * _schedule(step, steps)
            torch.manual_seed((seed << 24) + step)  # dropout knows no generator
            loss = batch_loss(policy, examples.batches(chosen), generator, BRIGHTNESS)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_([p for _, p in (*named, *others)], 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
            save_now = (step + 1) % SAVE_EVERY == 0 or step + 1 == steps
            if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
                row = {
                    "step": step + 1,
                    "loss": sum(losses) / len(losses),
                    "learning_rate": peak * _schedule(step, steps),
                }
                if save_now and (kept_back := examples.held_out(HELD_OUT_FRAMES)):
                    row["held_out_loss"] = _held_out_loss(policy, kept_back, seed)
                log.append(row)
                held_out = f", held out {row['held_out_loss']:.4f}" if "held_out_loss" in row else ""
                bar.note(f"loss {row['loss']:.4f}{held_out}")
                losses = []
            if save_now:
                checkpoint.save(log, losses, step + 1)
            bar.advance(batch)
    policy.eval()
    return log, batch * (steps - first) / (time.monotonic() - start)


def distil(
    policy: Policy, examples: Examples, settings: PolicySettings, work: Path, progress: Progress
) -> list[dict[str, float]]:
    """Teaches `policy`'s expert, in place, to do in `settings.euler_steps` Euler steps what it does in many now.

    A killed run begins the distillation anew: it is short. The log has rows of `distillation_loss`.
    """
    teacher = copy.deepcopy(policy).requires_grad_(False)
    parameters = [parameter for _, parameter in expert_parameters(policy)]
    steps = max(1, round(DISTIL_SHARE * settings.steps))
    optimiser = torch.optim.AdamW(parameters, DISTIL_RATE, (0.9, 0.95), weight_decay=0.0)
    log, losses = [], []
    with progress.task("distillation", steps * settings.batch, "frames") as bar:
        for step in range(steps):
            generator = torch.Generator().manual_seed((settings.seed << 24) + settings.steps + step)
            chosen = torch.randint(len(examples), (settings.batch,), generator=generator)
            for group in optimiser.param_groups:
                group["lr"] = DISTIL_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            batches = examples.batches(chosen)
            total = torch.zeros(())
            for batch in batches:
                with torch.no_grad():
                    prefix = policy.condition(
                        batch.robot, batch.images, batch.state_BS, batch.text_BTF, batch.present_BT
                    )
                noise = torch.randn(batch.actions_BKA.shape, generator=generator)
                share = len(batch.state_BS) / settings.batch
                total = total + share * distillation_loss(
                    policy, teacher, prefix, settings.euler_steps, noise, batch.valid_BK
                )
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            losses.append(float(total.detach()))
            if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
                log.append({"step": settings.steps + step + 1, "distillation_loss": sum(losses) / len(losses)})
                bar.note(f"loss {log[-1]['distillation_loss']:.4f}")
                losses = []
            bar.advance(settings.batch)
    return log


def _schedule(step: int, steps: int) -> float:
    """The share of the peak learning rate: linear warm-up, then half a cosine to zero."""
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def batch_loss(policy: Network, batches: Sequence[Batch], generator: torch.Generator, brightness: float) -> Tensor:
    """The mean loss over the frames of `batches`."""
    total, frames = torch.zeros(()), sum(len(batch.state_BS) for batch in batches)
    for batch in batches:
        light = 1 + brightness * (2 * torch.rand(len(batch.state_BS), 1, 1, 1, generator=generator) - 1)
        images = {name: pixels * light for name, pixels in batch.images.items()}
        prefix = policy.condition(batch.robot, images, batch.state_BS, batch.text_BTF, batch.present_BT)
        loss = policy.loss(prefix, batch.actions_BKA, batch.valid_BK, batch.destination_BD, generator)
        total = total + len(batch.state_BS) / frames * loss
    return total


@torch.no_grad()
def _held_out_loss(policy: Network, batches: Sequence[Batch], seed: int) -> float:
    """On the same frames with the same noise each time."""
    policy.eval()
    loss = float(batch_loss(policy, batches, torch.Generator().manual_seed(seed), brightness=0.0))
    policy.train()
    return loss


class Checkpoint:
    """Weights and AdamW's moments in one file, so that it is there whole or not at all."""

    def __init__(self, path: Path, named: list[tuple[str, nn.Parameter]], optimiser: torch.optim.Optimizer) -> None:
        self._path, self._named, self._optimiser = path, named, optimiser

    def save(self, log: Log, losses: list[float], step: int) -> None:
        tensors = {}
        for name, parameter in self._named:
            tensors[f"weight.{name}"] = parameter.detach()
            for key, value in self._optimiser.state[parameter].items():
                tensors[f"{key}.{name}"] = value
        metadata = {"step": str(step), "log": json.dumps(log), "losses": json.dumps(losses)}
        write_atomic(self._path, save(tensors, metadata))

    def resume(self) -> tuple[Log, list[float], int]:
        """The log, the losses since its last row, and the steps done; of the file, or from nothing."""
        if not self._path.exists():
            return [], [], 0
        with safe_open(str(self._path), framework="pt") as opened, torch.no_grad():
            metadata, present = opened.metadata(), set(opened.keys())
            for name, parameter in self._named:
                parameter.copy_(opened.get_tensor(f"weight.{name}"))
                keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in present]
                self._optimiser.state[parameter] = {key: opened.get_tensor(f"{key}.{name}") for key in keys}
        return json.loads(metadata["log"]), json.loads(metadata["losses"]), int(metadata["step"])
