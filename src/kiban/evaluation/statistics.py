"""What may be said of scores: averages of several runs, differences between two models, rank correlation."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kiban.artifacts.intervals import Z_95

RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """Of a second model from a first on the same items. `p` is two-sided: the exact McNemar test where items are right
    or wrong, else the share of bootstrap resamples on the other side of zero, twice."""

    value: float
    interval: tuple[float, float]
    p: float
    n: int


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation, with mean ranks for ties; 0 where one of them does not vary."""
    x, y = _ranks(np.asarray(a, float)), _ranks(np.asarray(b, float))
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / norm if norm > 0 else 0.0


def spearman_interval(r: float, n: int) -> tuple[float, float]:
    """95 %, by Fisher's z with the variance (1 + r^2 / 2) / (n - 3) (Bonett and Wright, 2000,
    Psychometrika 65:23-28)."""
    if n < 4 or abs(r) >= 1:
        return (-1.0, 1.0) if n < 4 else (r, r)
    half = Z_95 * math.sqrt((1 + r * r / 2) / (n - 3))
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[place]


def difference(
    first: np.ndarray, second: np.ndarray, statistic: Callable[[np.ndarray], float], seed: int
) -> Difference:
    """Of `statistic` over the rows of two arrays [items, columns] of the same items, by a paired bootstrap."""
    assert first.shape == second.shape
    n = len(first)
    rng = np.random.default_rng(seed)
    drawn = np.empty(RESAMPLES)
    for r in range(RESAMPLES):
        rows = rng.integers(0, n, n)
        drawn[r] = statistic(second[rows]) - statistic(first[rows])
    low, high = np.quantile(drawn, [0.025, 0.975])
    if set(np.unique(np.concatenate([first[:, 0], second[:, 0]]))) <= {0.0, 1.0} and first.shape[1] == 1:
        p = mcnemar(int((first > second).sum()), int((second > first).sum()))
    else:
        p = min(1.0, 2 * min(float((drawn <= 0).mean()), float((drawn >= 0).mean())) + 1 / RESAMPLES)
    return Difference(statistic(second) - statistic(first), (float(low), float(high)), p, n)


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact test (McNemar, 1947; binomial with 1/2 over the items on which the two differ), two-sided."""
    n, k = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(k + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted for as many tests as there are (Holm, 1979, Scandinavian Journal of Statistics 6:65-70)."""
    adjusted, most = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        most = max(most, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = most
    return adjusted


def kappa(a: Sequence[object], b: Sequence[object]) -> float:
    """Cohen's kappa: agreement beyond chance (Cohen, 1960). 1 where both always say the same one thing."""
    n = len(a)
    seen = sum(x == y for x, y in zip(a, b, strict=True)) / n
    by_chance = sum((a.count(label) / n) * (b.count(label) / n) for label in set(a) | set(b))
    return 1.0 if by_chance == 1 else (seen - by_chance) / (1 - by_chance)
