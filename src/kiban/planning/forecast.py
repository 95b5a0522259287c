"""What the next model will reach and cost, and what each milestone takes, from the programme's own runs.

A metric is forecast in two steps, as Llama 3's benchmarks were (arXiv 2407.21783, section 3.2.1): the loss from the
scaling law, and the metric from the loss. Where the runs do not say, the forecast says that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kiban.model.presets import PRESETS, of_width, preset
from kiban.planning.own_runs import OwnRun
from kiban.planning.scaling import RESAMPLES, Estimate, Floats, Law, Observed, estimate, fit_law

FEWEST_MEASURED = 4  # models with a metric, for its dependence on the loss
MOST_REACH = 1000.0  # times the largest run's compute: no law is known to hold further
WIDEST = 1e4  # the upper end of an interval of compute over the lower: wider says nothing
TOKENS_PER_PARAMETER = 20  # of a compute-optimal run (arXiv 2203.15556, table 3)
SHARES = ("share", "success rate")  # units of metrics between 0 and 1
# Student's t at 97.5 %, by degrees of freedom; from 11 on, the normal distribution's with a little more.
T_975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


@dataclass(frozen=True)
class Back:
    """A run of the largest size, predicted from the smaller ones."""

    name: str
    predicted: Estimate
    measured: float

    @property
    def relative_error(self) -> float:
        return self.predicted.value / self.measured - 1

    @property
    def inside(self) -> bool:
        return self.predicted.low <= self.measured <= self.predicted.high


@dataclass(frozen=True)
class Next:
    """The next model, on the data and with the vocabulary of the runs."""

    preset: str
    parameters: int  # active
    tokens: int
    loss: Estimate
    best_tokens: Estimate  # with which its compute is best spent, by the law
    times: float  # its compute over that of the largest run


@dataclass(frozen=True)
class Bound:
    """A milestone's criterion."""

    milestone: str
    due: str
    metric: str
    direction: str  # at_least or at_most
    bound: float


@dataclass(frozen=True)
class Reach:
    """What it takes to meet a bound. `status`: met, forecast, or cannot say; then `reason` says why."""

    bound: Bound
    status: str
    reason: str | None = None
    loss: Estimate | None = None
    flops: Estimate | None = None
    parameters: float | None = None  # of the best model of so much compute, active
    tokens: float | None = None  # and what it reads
    next_tokens: Estimate | None = None  # with which the next model meets it; None: with no number


def backtest(runs: Sequence[OwnRun]) -> list[Back]:
    """Fits without the largest size and predicts its runs. Empty where too little is left to fit."""
    largest = max((run.observed.parameters for run in runs), default=0.0)
    law = fit_law([run.observed for run in runs if run.observed.parameters < largest])
    if law is None:
        return []
    held = [run.observed for run in runs if run.observed.parameters == largest]
    return [Back(run.name, law.loss(run.parameters, run.tokens), run.loss) for run in held]


def next_model(law: Law, runs: Sequence[OwnRun], name: str | None = None, tokens: int | None = None) -> Next:
    """`name`: a preset or a width; None: the smallest preset that is larger than every run."""
    vocabulary, largest = runs[-1].vocabulary, max(run.observed.parameters for run in runs)
    if name is None:
        larger = (x for x in PRESETS if preset(x, vocabulary).parameters().active > 1.01 * largest)
        name = next(larger, list(PRESETS)[-1])
    parameters = preset(name, vocabulary).parameters().active
    tokens = tokens or TOKENS_PER_PARAMETER * parameters
    return Next(
        preset=name,
        parameters=parameters,
        tokens=tokens,
        loss=law.loss(parameters, tokens),
        best_tokens=law.best_tokens(parameters),
        times=Observed("", parameters, tokens, 0.0).flops / max(run.observed.flops for run in runs),
    )


def reach(law: Law | None, runs: Sequence[OwnRun], bound: Bound, parameters: float | None = None) -> Reach:
    """`parameters` of the next model."""
    measured = [run for run in runs if bound.metric in run.metrics]
    if not measured:
        return Reach(bound, "cannot say", "no run of the law has this metric")
    for run in reversed(measured):
        value = run.metrics[bound.metric].value
        if value >= bound.bound if bound.direction == "at_least" else value <= bound.bound:
            return Reach(bound, "met", f"{run.observed.name} has {value:.4g}")
    if law is None:
        return Reach(bound, "cannot say", "there are too few runs for a law")
    if len(measured) < FEWEST_MEASURED:
        few = f"{len(measured)} models have the metric; its dependence on the loss takes {FEWEST_MEASURED}"
        return Reach(bound, "cannot say", few)
    losses = loss_for(measured, bound)
    if isinstance(losses, str):
        return Reach(bound, "cannot say", losses)
    needed, largest = law.compute_for(losses), max(run.observed.flops for run in runs)
    loss, flops = estimate(losses, losses[1:]), estimate(needed, needed[1:])
    never = float(np.mean(~np.isfinite(needed[1:])))
    if not math.isfinite(flops.value) or not math.isfinite(flops.high):
        reason = f"it takes a loss of {loss.value:.3f}, below what any model reaches in {100 * never:.0f} % of the fits"
    elif flops.value > MOST_REACH * largest:
        reason = (
            f"it takes {flops.value:.1e} FLOP, {flops.value / largest:.0e} times the largest run; no law reaches so far"
        )
    elif flops.high > WIDEST * flops.low:
        reason = f"it takes anything from {flops.low:.0e} to {flops.high:.0e} FLOP"
    else:
        size, tokens, _ = law.at_compute(flops.value)
        own = law.tokens_for(parameters, losses) if parameters else np.full(1, np.inf)
        each = estimate(own, own[1:]) if np.isfinite(own[0]) else None
        return Reach(bound, "forecast", None, loss, flops, size.value, tokens.value, each)
    return Reach(bound, "cannot say", reason, loss)


def loss_for(measured: Sequence[OwnRun], bound: Bound) -> Floats | str:
    """The loss at which the metric is at its bound: the best estimate, then RESAMPLES others; or why none can be told.

    A line: the metric's logit (of shares) or logarithm (of what is above 0) over the logarithm of the loss; points
    weigh by their intervals.
    """
    metrics = [run.metrics[bound.metric] for run in measured]
    share = metrics[0].unit in SHARES
    values = np.array([metric.value for metric in metrics])
    if not share and (values.min() <= 0 or bound.bound <= 0):
        return "only shares and figures above 0 can be forecast"

    def line(value: Floats) -> Floats:
        inner = np.clip(value, 1e-3, 1 - 1e-3)
        straight: Floats = np.log(inner / (1 - inner)) if share else np.log(value)
        return straight

    y, x = line(values), np.log([run.observed.loss for run in measured])
    ends = [metric.interval or (metric.value, metric.value) for metric in metrics]
    width = line(np.array([high for _, high in ends])) - line(np.array([low for low, _ in ends]))
    sd = np.maximum(width / 3.92, 0.01)
    design = np.stack([np.ones_like(x), x], 1) / sd[:, None]
    covariance = np.linalg.inv(design.T @ design + 1e-12 * np.eye(2))
    fit = covariance @ design.T @ (y / sd)
    left, freedom = y / sd - design @ fit, len(x) - 2
    covariance = covariance * max(1.0, float(left @ left) / freedom)
    error = float(np.sqrt(covariance[1, 1])) * T_975[min(freedom, len(T_975)) - 1]
    wanted = -1 if (bound.direction == "at_least") else 1  # a better metric goes with a lower loss
    if wanted * fit[1] <= error:
        return (
            f"over {len(x)} models the metric does not change with the loss beyond chance "
            f"(slope {fit[1]:.2g}, give or take {error:.2g})"
        )
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((RESAMPLES, 2)) @ np.linalg.cholesky(covariance).T
    draws *= np.sqrt(freedom / rng.chisquare(freedom, RESAMPLES))[:, None]  # Student's t
    every = np.concatenate([fit[None], fit + draws])
    slopes = wanted * np.maximum(wanted * every[:, 1], 1e-6)
    losses: Floats = np.exp(np.clip((float(line(np.array([bound.bound]))[0]) - every[:, 0]) / slopes, -50, 50))
    return losses


def width_of(parameters: float, vocabulary: int) -> int:
    """The width of the model whose active parameters are nearest."""
    widths = range(256, 16384 + 1, 128)
    return min(widths, key=lambda width: abs(math.log(of_width(width, vocabulary).parameters().active / parameters)))
