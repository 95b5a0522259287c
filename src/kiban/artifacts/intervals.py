"""Confidence intervals: no figure of quality goes without one."""

import math
from collections.abc import Sequence

Z_95 = 1.959963984540054


def wilson(successes: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (E. B. Wilson, 1927, JASA 22:209-212).

    Raises:
        ValueError: if n is zero or successes is not within 0..n.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n} trials: no proportion")
    p = successes / n
    denominator = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / denominator
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / denominator
    # At the ends the formula is exact only up to rounding; the interval must contain the estimate.
    return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))


def bootstrap_mean(
    values: Sequence[float], seed: int, resamples: int = 2000, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron, 1979)."""
    return bootstrap_ratio(values, [1.0] * len(values), seed, resamples, confidence)


def bootstrap_ratio(
    numerators: Sequence[float],
    denominators: Sequence[float],
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of sum(numerators) / sum(denominators), resampling the pairs.

    For bits per character: bits and characters of each document.
    """
    import numpy as np

    top = np.asarray(numerators, dtype=np.float64)
    bottom = np.asarray(denominators, dtype=np.float64)
    if len(top) == 0 or len(top) != len(bottom):
        raise ValueError(f"{len(top)} numerators and {len(bottom)} denominators: nothing to resample")
    rng = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for r in range(resamples):
        chosen = rng.integers(0, len(top), len(top))
        ratios[r] = top[chosen].sum() / bottom[chosen].sum()
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)
