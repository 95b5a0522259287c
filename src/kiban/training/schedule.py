"""The learning rate as a function of the step, as a factor on its peak."""

import math

COSINE_FLOOR = 0.1  # of the peak, at the end (Chinchilla, arXiv 2203.15556)


def wsd(step: int, num_steps: int, warmup_share: float, decay_share: float) -> float:
    """Warm-up, stable, decay (arXiv 2404.06395) at `step` (0-based): up linearly, constant, down linearly to near 0."""
    warmup = max(1, round(num_steps * warmup_share))
    decay = round(num_steps * decay_share)
    up = (step + 1) / warmup
    down = (num_steps - step) / decay if decay else 1.0
    return min(1.0, up, down)


def cosine(step: int, num_steps: int, warmup_share: float) -> float:
    """Up linearly, then half a cosine down to COSINE_FLOOR (arXiv 1608.03983)."""
    warmup = max(1, round(num_steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    gone = (step - warmup) / max(1, num_steps - 1 - warmup)
    return COSINE_FLOOR + (1 - COSINE_FLOOR) * 0.5 * (1 + math.cos(math.pi * gone))
