"""What both peers share: the optimiser, the clipping and the steps of our loop, around a model that is theirs.

Needs torch and numpy alone: it runs in the environments of the peers.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def job() -> dict[str, Any]:
    """What the command line asks for: one JSON file, as `training_cpu.py` writes it."""
    found: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(found["threads"])
    return found


def answer(job: dict[str, Any], **figures: Any) -> None:
    Path(job["out"]).write_text(json.dumps(figures))


def precision(job: dict[str, Any]) -> tuple[torch.dtype, Callable[[], AbstractContextManager[Any]]]:
    """The dtype of the weights, and what the forward pass runs under. `bfloat16` comes in two kinds: weights in float32
    with `autocast`, and everything in bfloat16 (`pure`), the optimiser's state too."""
    if job["dtype"] == "float32":
        return torch.float32, nullcontext
    if job["variant"]["kind"] == "pure":
        return torch.bfloat16, nullcontext
    return torch.float32, lambda: torch.autocast("cpu", torch.bfloat16)


def train(
    job: dict[str, Any], model: nn.Module, embedding: str, loss_of: Callable[[Tensor, Tensor], Tensor]
) -> tuple[list[float], list[float]]:
    """Losses (nats/token) and seconds of each step.

    Args:
        embedding: the name of the input embedding's weight, which does not decay.
        loss_of: inputs and targets, [B, L], to the mean loss.
    """
    model.train()
    decayed = [p for name, p in model.named_parameters() if p.dim() > 1 and name != embedding]
    others = [p for name, p in model.named_parameters() if p.dim() == 1 or name == embedding]
    groups = [{"params": decayed, "weight_decay": job["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=job["lr"][0], betas=tuple(job["betas"]), eps=job["eps"], fused=True)
    batches = np.load(job["batches"], mmap_mode="r")
    losses, seconds = [], []
    for step, lr in enumerate(job["lr"]):
        began = time.perf_counter()
        tokens_BX = torch.from_numpy(batches[step].astype(np.int64))
        for group in optimiser.param_groups:
            group["lr"] = lr
        loss = loss_of(tokens_BX[:, :-1].contiguous(), tokens_BX[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), job["grad_clip"]).item()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - began)
    return losses, seconds
