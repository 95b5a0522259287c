"""Bits per character of a model on the windows that `experiments.py` wrote. Needs torch and numpy alone: it runs in the
environments of the peers."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

BATCH = 16  # windows


@torch.inference_mode()
def bits_per_character(logits_of: Callable[[Tensor], Tensor], windows: Path) -> float:
    """`logits_of`: tokens [B, L] to logits [B, L, vocabulary]. Every token after BOS counts once."""
    found = np.load(windows)
    order = np.argsort(found["lengths"], kind="stable")
    nats = 0.0
    for first in range(0, len(order), BATCH):
        rows = order[first : first + BATCH]
        tokens_BL = torch.from_numpy(found["tokens"][rows, : found["lengths"][rows].max()].astype(np.int64))
        log_probs_BLV = logits_of(tokens_BL[:, :-1]).float().log_softmax(-1)
        scores_BL = log_probs_BLV.gather(2, tokens_BL[:, 1:, None])[..., 0].double()
        for row, length, fresh in zip(scores_BL, found["lengths"][rows], found["fresh"][rows], strict=True):
            nats -= row[length - 1 - fresh : length - 1].sum().item()
    return nats / math.log(2) / int(found["characters"])
