"""Statistics of features, all exact: vectors from their values, pictures from pixel counts by brightness.

The entries are those of lerobot's `stats.json`. Unlike lerobot's, our quantiles over all frames are quantiles, not
envelopes over episodes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

Stats = dict[str, list[Any]]


def of_vectors(values: NDArray[Any]) -> Stats:
    """Of [frames, *shape]."""
    values = values.astype(np.float64)
    stats = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    stats |= dict(zip(QUANTILES, quantiles, strict=True))
    return {name: value.tolist() for name, value in stats.items()} | {"count": [len(values)]}


def of_pictures(levels: NDArray[np.int64], count: int) -> Stats:
    """From pixel counts by level, [channels, 256]; in [0, 1], of shape (channels, 1, 1) as readers expect."""
    brightness = np.arange(256) / 255
    total = levels.sum(1)
    mean = levels @ brightness / total
    cumulated = levels.cumsum(1)
    stats = {
        "min": brightness[(levels > 0).argmax(1)],
        "max": brightness[255 - (levels[:, ::-1] > 0).argmax(1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(levels @ brightness**2 / total - mean**2, 0.0)),
    }
    stats |= {name: brightness[(cumulated >= q * total[:, None]).argmax(1)] for name, q in QUANTILES.items()}
    return {name: value.reshape(-1, 1, 1).tolist() for name, value in stats.items()} | {"count": [count]}


def of_all(episodes: list[dict[str, Stats]]) -> dict[str, Stats]:
    """Minimum, maximum, mean and deviation over all frames from those of the episodes: for datasets that came without
    any over all frames. Quantiles cannot be had that way."""
    names = dict.fromkeys(name for episode in episodes for name in episode)
    return {name: _merged([episode[name] for episode in episodes if name in episode]) for name in names}


def _merged(parts: list[Stats]) -> Stats:
    counts = np.array([part["count"][0] for part in parts], np.float64)

    def stacked(key: str) -> NDArray[np.float64]:
        return np.array([part[key] for part in parts], np.float64)

    weights = (counts / counts.sum()).reshape(-1, *[1] * (stacked("mean").ndim - 1))
    mean = (weights * stacked("mean")).sum(0)
    variance = (weights * (stacked("std") ** 2 + (stacked("mean") - mean) ** 2)).sum(0)
    stats = {"min": stacked("min").min(0), "max": stacked("max").max(0), "mean": mean, "std": np.sqrt(variance)}
    return {name: value.tolist() for name, value in stats.items()} | {"count": [int(counts.sum())]}
