"""The learning rate as a function of the step: warm-up, stable, decay (WSD, arXiv 2404.06395)."""


def wsd(step: int, num_steps: int, warmup_share: float, decay_share: float) -> float:
    """The factor on the peak learning rate at `step` (0-based): up linearly, constant, down linearly to near 0."""
    warmup = max(1, round(num_steps * warmup_share))
    decay = round(num_steps * decay_share)
    up = (step + 1) / warmup
    down = (num_steps - step) / decay if decay else 1.0
    return min(1.0, up, down)
