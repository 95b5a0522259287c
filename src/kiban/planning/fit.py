"""Fits the efficiency constants on published runs, and says how right they are on runs that the fit did not see.

A constant's logarithm has a normal prior (what is known of it beforehand), so that data that say nothing about it
leave it where it was. The residuals are log(predicted / measured), with Cauchy's loss, since some published figures are
of something else than they say; the more rows a source and model have, the less each weighs, since they are not
independent. Levenberg-Marquardt (J. SIAM 11:431, 1963), numerical derivatives.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kiban.planning.published import Run
from kiban.planning.step_time import Constants, rates, stacked, step_seconds

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Prior:
    """Of the logarithm: the constant is `mean`, times or over e^`sigma`."""

    mean: float
    sigma: float


PRIORS: Mapping[str, Prior] = {
    "gemm.ampere.bf16": Prior(0.75, 0.15),
    "gemm.hopper.bf16": Prior(0.68, 0.15),
    "gemm.hopper.fp8": Prior(0.55, 0.15),
    "gemm.hopper.mxfp8": Prior(0.50, 0.15),
    "gemm.blackwell.bf16": Prior(0.68, 0.15),
    "gemm.blackwell.fp8": Prior(0.60, 0.15),
    "gemm.blackwell.mxfp8": Prior(0.55, 0.15),
    "gemm.blackwell.nvfp4": Prior(0.45, 0.15),
    "attention.ampere": Prior(0.50, 0.25),
    "attention.hopper": Prior(0.50, 0.25),
    "attention.blackwell": Prior(0.50, 0.25),
    "narrow.head": Prior(0.4, 0.5),
    "narrow.product": Prior(300.0, 0.7),
    "misaligned": Prior(4.0, 1.0),
    "grouped": Prior(0.85, 0.1),
    "memory": Prior(0.80, 0.1),
    "element": Prior(1.0, 0.4),
    "routed": Prior(1.0, 0.4),
    "cast": Prior(0.5, 0.7),
    "imbalance": Prior(1.1, 0.05),
    "host.dense": Prior(1e-4, 1.0),
    "host.moe.eager": Prior(2e-3, 0.7),
    "host.moe.graphed": Prior(5e-4, 0.7),
    "host.moe.drop": Prior(1.5e-3, 0.4),
    "host.expert": Prior(3e-4, 0.7),
    "power": Prior(1.0, 0.3),
    "exposed.tensor": Prior(0.4, 0.5),
    "exposed.tensor-plain": Prior(1.0, 0.3),
    "exposed.context": Prior(0.3, 0.5),
    "exposed.expert": Prior(0.6, 0.5),
    "exposed.expert-far": Prior(0.8, 0.3),
    "exposed.pipeline": Prior(0.3, 0.5),
    "exposed.data": Prior(0.3, 0.5),
    "exposed.gather": Prior(0.3, 0.5),
    "overlap": Prior(0.8, 0.3),
    "spread": Prior(0.05, 0.7),
    "software.composer": Prior(1.0, 0.1),
    "software.maxtext": Prior(1.0, 0.1),
    "software.torchtitan": Prior(1.0, 0.1),
    "software.megatron-2022": Prior(1.0, 0.1),
}
NOISE = 0.05  # of a row's logarithm
CAUCHY = 2.0  # in units of NOISE


def measured_step(run: Run) -> float | None:
    """Seconds of a step as measured, or from the measured tokens/s; None if neither is published."""
    measured = run.row["measured"]
    if measured.get("step_time_s"):
        return float(measured["step_time_s"])
    if measured.get("tokens_per_s_per_gpu"):
        tokens = run.layout.global_batch * run.sequence_length
        return tokens / run.layout.gpus / float(measured["tokens_per_s_per_gpu"])
    return None


def fit(runs: Sequence[Run], *, rounds: int = 25) -> Constants:
    """Constants from the runs that have a measured step."""
    seen = [run for run in runs if measured_step(run)]
    names = list(PRIORS)
    mean = np.log([PRIORS[name].mean for name in names])
    sigma = np.array([PRIORS[name].sigma for name in names])
    target = np.log([measured_step(run) or 0.0 for run in seen])
    work, situations = stacked([run.work() for run in seen]), [run.situation for run in seen]
    group = defaultdict[tuple[str, str], int](int)
    for run in seen:
        group[run.source, run.model] += 1
    weight = np.array([group[run.source, run.model] ** -0.25 for run in seen])

    def residuals(x: Floats) -> Floats:
        c = dict(zip(names, np.exp(x), strict=True))
        error = np.log(step_seconds(work, rates(situations, c), c)) - target
        return np.concatenate([weight * _robust(error / NOISE), (x - mean) / sigma])

    return dict(zip(names, np.exp(_least_squares(residuals, mean, rounds)).tolist(), strict=True))


def _robust(r: Floats) -> Floats:
    """Residuals whose squares are Cauchy's loss."""
    return np.sign(r) * CAUCHY * np.sqrt(np.log1p((r / CAUCHY) ** 2))


def _least_squares(residuals: Callable[[Floats], Floats], start: Floats, rounds: int) -> Floats:
    x, damping = start.copy(), 1.0
    r = residuals(x)
    for _ in range(rounds):
        jacobian = np.stack([(residuals(x + step) - r) / 1e-4 for step in 1e-4 * np.eye(len(x))], axis=1)
        normal, gradient = jacobian.T @ jacobian, jacobian.T @ r
        while damping < 1e8:
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -gradient)
            tried = residuals(x + step)
            if tried @ tried < r @ r:
                gained = 1 - (tried @ tried) / (r @ r)
                x, r, damping = x + step, tried, damping / 5
                break
            damping *= 4
        else:
            break
        if gained < 1e-5:
            break
    return x


def folds(runs: Sequence[Run], key: Callable[[Run], object]) -> list[tuple[list[Run], list[Run]]]:
    """(seen, held out) for each value of `key`."""
    values = list(dict.fromkeys(key(run) for run in runs))
    return [([r for r in runs if key(r) != value], [r for r in runs if key(r) == value]) for value in values]


def held_out_errors(runs: Sequence[Run], key: Callable[[Run], object]) -> list[tuple[Run, float]]:
    """Of each run with a measured step: predicted over measured, less 1, by constants fitted without its fold."""
    found = []
    for seen, held in folds([run for run in runs if measured_step(run)], key):
        c = fit(seen)
        for run, seconds in zip(held, predicted_steps(held, c), strict=True):
            found.append((run, seconds / (measured_step(run) or 0.0) - 1))
    return found


def predicted_steps(runs: Sequence[Run], c: Constants) -> list[float]:
    work = stacked([run.work() for run in runs])
    seconds: list[float] = step_seconds(work, rates([run.situation for run in runs], c), c).tolist()
    return seconds
