"""The policy's training loop. Every random number is a function of (seed, step), so a run that was killed goes on from
its last checkpoint to the same weights, bit for bit, on the same processor and number of threads."""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from kiban.artifacts.files import write_atomic
from kiban.artifacts.progress import Progress
from kiban.artifacts.store import WORK, Artifact
from kiban.robotics.agent import PolicyDescription, save_policy
from kiban.robotics.demonstrations import ACTION, IMAGES, STATE
from kiban.robotics.embodiment import load
from kiban.robotics.language import Reader
from kiban.robotics.lerobot_v3 import Dataset
from kiban.robotics.normaliser import CHANNELS, Normaliser, Normalisers
from kiban.robotics.policy import CameraShape, Policy, PolicyConfig
from kiban.robotics.stage import PolicySettings

LEARNING_RATE = 2e-3
WARM_UP = 100  # steps
WEIGHT_DECAY = 1e-2
DRAWS = 2  # of noise and time for each frame of a batch: the pictures cost more than the expert
LOG_EVERY, SAVE_EVERY = 50, 250  # steps
CHECKPOINT = "checkpoint.safetensors"
BRIGHTNESS = 0.1  # pictures' contrast is raised or lowered by up to this share
DESTINATION_WEIGHT = 0.5
TOOL = ("tool.x", "tool.y", "tool.z")


@dataclass(frozen=True)
class Batch:
    images: dict[str, Tensor]
    state_BS: Tensor
    text_BTF: Tensor
    present_BT: Tensor
    actions_BKA: Tensor
    valid_BK: Tensor
    destination_B3: Tensor


class Examples:
    """All demonstrations in memory: frame i with the `chunk` actions from i on within its episode, normalised."""

    def __init__(self, dataset: Dataset, reader: Reader, normalisers: Normalisers, chunk: int) -> None:
        self._normalisers = normalisers
        self._pixels = {name: torch.from_numpy(dataset.frames(IMAGES + name)) for name in normalisers.images}
        self._state = normalisers.state.apply(torch.from_numpy(dataset.frames(STATE)))
        self._action = normalisers.action.apply(torch.from_numpy(dataset.frames(ACTION)))
        self._text, self._present = reader.read_all(dataset.tasks)
        self._task = torch.from_numpy(dataset.frames("task_index")[:, 0])
        episode = torch.from_numpy(dataset.frames("episode_index")[:, 0])
        index = torch.arange(len(episode))[:, None] + torch.arange(chunk)
        self._following = index.clamp(max=len(episode) - 1)
        self._valid = (index < len(episode)) & (episode[self._following] == episode[:, None])
        last = torch.searchsorted(episode, episode, right=True) - 1
        tool = [normalisers.state.names.index(name) for name in TOOL]
        self._destination = self._state[last][:, tool]

    def __len__(self) -> int:
        return len(self._task)

    def batch(self, frames: Tensor) -> Batch:
        sentences = self._task[frames]
        longest = int(self._present[sentences].sum(dim=1).max())
        return Batch(
            {name: self._normalisers.images[name].apply_to_pixels(p[frames]) for name, p in self._pixels.items()},
            self._state[frames],
            self._text[sentences, :longest],
            self._present[sentences, :longest],
            self._action[self._following[frames]],
            self._valid[frames],
            self._destination[frames],
        )


@dataclass(frozen=True)
class Trained:
    loss: float
    parameters: int
    frames_per_s: float


def train_from(
    settings: PolicySettings, demonstrations: Artifact, export: Artifact, out: Path, progress: Progress
) -> Trained:
    """Trains a policy for the demonstrated embodiment, reading through the exported language model, into `out`.

    Raises:
        KibanError: if the dataset is not of that embodiment, or is not whole.
    """
    embodiment = load(demonstrations.settings["embodiment"])
    dataset, reader = Dataset(demonstrations.path / "dataset"), Reader.load(export.path)
    normalisers = _normalisers(dataset)
    normalisers.check(embodiment)
    network = PolicyConfig(
        cameras=tuple(CameraShape(name=c.name, height=c.height, width=c.width) for c in embodiment.cameras),
        state=len(normalisers.state.names),
        action=len(normalisers.action.names),
        language=reader.num_features,
    )
    threads_before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        policy = Policy(network)
    examples = Examples(dataset, reader, normalisers, network.chunk)
    work = out / WORK
    work.mkdir(exist_ok=True)
    log, frames_per_s = train(policy, examples, settings.steps, settings.batch, settings.seed, work, progress)
    torch.set_num_threads(threads_before)
    description = PolicyDescription(
        embodiment=embodiment.name,
        tasks=demonstrations.settings["tasks"],
        language=export.address,
        network=network,
        normalisers=normalisers,
    )
    save_policy(policy, description, out)
    write_atomic(out / "log.jsonl", "".join(json.dumps(row) + "\n" for row in log))
    return Trained(log[-1]["loss"], sum(p.numel() for p in policy.parameters()), frames_per_s)


def _normalisers(dataset: Dataset) -> Normalisers:
    cameras = [name for name, feature in dataset.features.items() if feature.dtype == "image"]
    state, action = (
        Normaliser.from_stats(dataset.features[name].names or (), dataset.stats[name]) for name in (STATE, ACTION)
    )
    images = {name.removeprefix(IMAGES): Normaliser.from_stats(CHANNELS, dataset.stats[name]) for name in cameras}
    return Normalisers(state=state, action=action, images=images)


def train(
    policy: Policy, examples: Examples, steps: int, batch: int, seed: int, work: Path, progress: Progress
) -> tuple[list[dict[str, float]], float]:
    """Trains `policy` in place from its last checkpoint in `work`; gives the log and this process's frames a second.

    The log has a row every LOG_EVERY steps: step, loss (mean since the last row), learning rate.
    """
    optimiser = torch.optim.AdamW(policy.parameters(), LEARNING_RATE, (0.9, 0.95), weight_decay=WEIGHT_DECAY)
    log, losses, first = _resume(policy, optimiser, work)
    policy.train()
    start = time.monotonic()
    with progress.task("policy", steps, "steps") as bar:
        bar.update(first)
        for step in range(first, steps):
            generator = torch.Generator().manual_seed((seed << 24) + step)
            chosen = torch.randint(len(examples), (batch,), generator=generator)
            for group in optimiser.param_groups:
                group["lr"] = _learning_rate(step, steps)
            loss = _loss(policy, examples.batch(chosen), generator)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
            if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
                log.append(
                    {"step": step + 1, "loss": sum(losses) / len(losses), "learning_rate": _learning_rate(step, steps)}
                )
                bar.note(f"loss {log[-1]['loss']:.4f}")
                losses = []
            if (step + 1) % SAVE_EVERY == 0:
                _save(policy, optimiser, log, losses, step + 1, work)
            bar.advance()
    policy.eval()
    return log, batch * (steps - first) / (time.monotonic() - start)


def _learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine to zero."""
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _loss(policy: Policy, batch: Batch, generator: torch.Generator) -> Tensor:
    brightness = 1 + BRIGHTNESS * (2 * torch.rand(len(batch.state_BS), 1, 1, 1, generator=generator) - 1)
    images = {name: pixels * brightness for name, pixels in batch.images.items()}
    tokens = policy.condition(images, batch.state_BS, batch.text_BTF, batch.present_BT)
    actions = batch.actions_BKA.repeat(DRAWS, 1, 1)
    noise = torch.randn(actions.shape, generator=generator)
    time_B = torch.rand(len(actions), generator=generator)
    loss = policy.loss(tokens.repeat(DRAWS, 1, 1), actions, batch.valid_BK.repeat(DRAWS, 1), noise, time_B)
    return loss + DESTINATION_WEIGHT * policy.destination_loss(tokens, batch.destination_B3)


# The checkpoint: weights and AdamW's moments in one file, so that it is there whole or not at all.


def _save(
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    log: list[dict[str, float]],
    losses: list[float],
    step: int,
    work: Path,
) -> None:
    tensors = {}
    for name, parameter in policy.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach()
        for key, value in optimiser.state[parameter].items():
            tensors[f"{key}.{name}"] = value
    metadata = {"step": str(step), "log": json.dumps(log), "losses": json.dumps(losses)}
    write_atomic(work / CHECKPOINT, save(tensors, metadata))


def _resume(
    policy: Policy, optimiser: torch.optim.Optimizer, work: Path
) -> tuple[list[dict[str, float]], list[float], int]:
    """The log, the losses since its last row, and the steps done; of a checkpoint, or from nothing."""
    path = work / CHECKPOINT
    if not path.exists():
        return [], [], 0
    with safe_open(str(path), framework="pt") as opened, torch.no_grad():
        metadata = opened.metadata()
        for name, parameter in policy.named_parameters():
            parameter.copy_(opened.get_tensor(f"weight.{name}"))
            optimiser.state[parameter] = {
                key: opened.get_tensor(f"{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")
            }
    return json.loads(metadata["log"]), json.loads(metadata["losses"]), int(metadata["step"])
