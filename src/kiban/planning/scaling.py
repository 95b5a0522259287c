"""Scaling laws: what a run's loss will be, from runs that were smaller.

The form is Hoffmann et al.'s (arXiv 2203.15556, section 3.3): L = E + A / N^alpha + B / D^beta, with N parameters and D
tokens; fitted to the logarithm of the loss with Huber's loss, as there. Few runs do not determine five numbers, so each
has a wide prior, and the intervals are from fits to resampled losses under resampled priors (randomised maximum a
posteriori; Bardsley et al., SIAM J. Sci. Comput. 36:A1895, 2014): where the runs say nothing, the interval is the
prior's.

R resampled fits, n runs, 5 numbers: logarithms of E, of what A and B add at the mean run, of alpha and of beta.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEWEST_RUNS, FEWEST_SIZES = 4, 2
RESAMPLES = 400
# Of the logarithms: mean and spread. A third of the mean loss each, within a factor of e; alpha and beta as Hoffmann's
# and as Besiroglu et al. fitted them again (arXiv 2404.10102): 0.34 and 0.28, 0.35 and 0.37.
EXPONENTS, EXPONENT_SPREAD, SHARE_SPREAD = (0.34, 0.32), 0.4, 1.0
LEAST_NOISE = 0.003  # of a loss's logarithm: what another seed changes
HUBER = 1.345  # in units of the noise: 95 % as efficient as least squares if the noise is normal
ROUNDS = 60


@dataclass(frozen=True)
class Observed:
    """A finished run."""

    name: str
    parameters: float  # active ones: those a token passes through, the head included, the input embedding not
    tokens: float
    loss: float  # nats/token

    @property
    def flops(self) -> float:
        """6 N D: what compute means here, attention aside."""
        return 6.0 * self.parameters * self.tokens


@dataclass(frozen=True)
class Estimate:
    """With its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Law:
    """The best fit in row 0 of `fits`, then those to resampled losses. `middle`: log parameters and tokens of the mean
    run."""

    fits: Floats  # [1 + R, 5]
    middle: tuple[float, float]
    noise: float  # of a run's log loss
    runs: int

    def loss(self, parameters: float, tokens: float, seed: int = 0) -> Estimate:
        """Of a run to come: the interval holds what one more run's chance adds."""
        n, d = np.log([parameters]) - self.middle[0], np.log([tokens]) - self.middle[1]
        values = np.exp(_log_loss(self.fits, n, d)[:, 0])
        chance = np.random.default_rng(seed).normal(0, self.noise, len(values) - 1)
        return estimate(values, values[1:] * np.exp(chance))

    def numbers(self) -> dict[str, Estimate]:
        """E, A, B, alpha, beta."""
        e, a, b, alpha, beta = self._plain()
        return {name: estimate(x, x[1:]) for name, x in zip("EAB", (e, a, b), strict=True)} | {
            "alpha": estimate(alpha, alpha[1:]),
            "beta": estimate(beta, beta[1:]),
        }

    def best_tokens(self, parameters: float) -> Estimate:
        """With which a model of that size is the best that its compute (6 N D) can buy: where alpha A / N^alpha =
        beta B / D^beta (arXiv 2203.15556, equation 4)."""
        _, a, b, alpha, beta = self._plain()
        tokens = np.exp(np.log(beta * b / (alpha * a)) / beta + np.log(parameters) * alpha / beta)
        return estimate(tokens, tokens[1:])

    def at_compute(self, flops: float) -> tuple[Estimate, Estimate, Estimate]:
        """Parameters, tokens and loss of the best run of so much compute, taken as 6 N D (equation 4 there)."""
        e, a, b, alpha, beta = self._plain()
        parameters = np.exp((np.log(alpha * a / (beta * b)) + beta * np.log(flops / 6)) / (alpha + beta))
        tokens = flops / 6 / parameters
        loss = e + a * parameters**-alpha + b * tokens**-beta
        return estimate(parameters, parameters[1:]), estimate(tokens, tokens[1:]), estimate(loss, loss[1:])

    def compute_for(self, losses: Floats) -> Floats:
        """Of the best run that reaches the loss of its row; infinite where none does. [1 + R]."""
        e, a, b, alpha, beta = self._plain()
        g = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
        with np.errstate(divide="ignore", over="ignore"):
            share = (a * g**-alpha + b * g**beta) / np.maximum(losses - e, 0.0)
            flops: Floats = 6 * share ** ((alpha + beta) / (alpha * beta))
        return flops

    def tokens_for(self, parameters: float, losses: Floats) -> Floats:
        """With which a model of that size reaches the loss of its row; infinite where no number does. [1 + R]."""
        e, a, b, alpha, beta = self._plain()
        with np.errstate(divide="ignore", over="ignore"):
            tokens: Floats = (b / np.maximum(losses - e - a * parameters**-alpha, 0.0)) ** (1 / beta)
        return tokens

    def _plain(self) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        e, alpha, beta = np.exp(self.fits[:, 0]), np.exp(self.fits[:, 3]), np.exp(self.fits[:, 4])
        a = np.exp(self.fits[:, 1] + alpha * self.middle[0])
        return e, a, np.exp(self.fits[:, 2] + beta * self.middle[1]), alpha, beta


def fit_law(runs: Sequence[Observed], seed: int = 0) -> Law | None:
    """None where there are too few: `FEWEST_RUNS` runs of `FEWEST_SIZES` sizes, with more than one number of tokens."""
    sizes, amounts = {run.parameters for run in runs}, {run.tokens for run in runs}
    if len(runs) < FEWEST_RUNS or len(sizes) < FEWEST_SIZES or len(amounts) < 2:
        return None
    log_n, log_d = np.log([run.parameters for run in runs]), np.log([run.tokens for run in runs])
    middle = float(log_n.mean()), float(log_d.mean())
    n, d = log_n - middle[0], log_d - middle[1]
    y = np.log([run.loss for run in runs])
    prior = np.array([y.mean() - np.log(3)] * 3 + list(np.log(EXPONENTS)))
    spread = np.array([SHARE_SPREAD] * 3 + [EXPONENT_SPREAD] * 2)
    rng = np.random.default_rng(seed)

    def best(noise: float) -> Floats:
        starts = prior + spread * np.concatenate([np.zeros((1, 5)), rng.normal(size=(15, 5))])
        fits, costs = _descend(np.tile(y, (16, 1)), np.tile(prior, (16, 1)), starts, n, d, spread, noise)
        found: Floats = fits[np.argmin(costs)]
        return found

    noise = 0.01
    for _ in range(3):  # how large the noise is follows from a fit, which it takes to fit
        x = best(noise)
        left = y - _log_loss(x[None], n, d)[0]
        noise = max(LEAST_NOISE, 1.4826 * float(np.median(np.abs(left))) * (len(runs) / max(1, len(runs) - 4)) ** 0.5)
    x = best(noise)
    targets = _log_loss(x[None], n, d) + rng.normal(0, noise, (RESAMPLES, len(runs)))
    priors = prior + spread * rng.normal(size=(RESAMPLES, 5))
    fits, _ = _descend(targets, priors, np.tile(x, (RESAMPLES, 1)), n, d, spread, noise)
    return Law(np.concatenate([x[None], fits]), middle, noise, len(runs))


def _log_loss(fits: Floats, n: Floats, d: Floats) -> Floats:
    """[R, n]."""
    e, a, b = _terms(fits, n, d)
    loss: Floats = np.log(e + a + b)
    return loss


def _terms(fits: Floats, n: Floats, d: Floats) -> tuple[Floats, Floats, Floats]:
    alpha, beta = np.exp(fits[:, 3:4]), np.exp(fits[:, 4:5])
    return np.exp(fits[:, 0:1]), np.exp(fits[:, 1:2] - alpha * n), np.exp(fits[:, 2:3] - beta * d)


def _descend(
    targets: Floats, priors: Floats, starts: Floats, n: Floats, d: Floats, spread: Floats, noise: float
) -> tuple[Floats, Floats]:
    """Levenberg-Marquardt (J. SIAM 11:431, 1963) on all rows at once; Huber's loss by weights that follow the residual.
    Gives the fits [R, 5] and their costs [R]."""
    x, damping = starts.copy(), np.ones(len(starts))

    def cost(x: Floats) -> Floats:
        r = np.abs(_log_loss(x, n, d) - targets) / noise
        huber = np.where(r < HUBER, 0.5 * r * r, HUBER * (r - 0.5 * HUBER))
        total: Floats = huber.sum(1) + 0.5 * (((x - priors) / spread) ** 2).sum(1)
        return total

    now = cost(x)
    for _ in range(ROUNDS):
        e, a, b = _terms(x, n, d)
        loss = e + a + b
        r = (np.log(loss) - targets) / noise
        slopes = [e, a, b, -a * np.exp(x[:, 3:4]) * n, -b * np.exp(x[:, 4:5]) * d]
        jacobian = np.stack([slope / loss for slope in slopes], 2) / noise  # [R, n, 5]
        weight = np.minimum(1.0, HUBER / np.maximum(np.abs(r), 1e-12))
        gradient = np.einsum("rn,rnk->rk", weight * r, jacobian) + (x - priors) / spread**2
        normal = np.einsum("rn,rnk,rnl->rkl", weight, jacobian, jacobian) + np.diag(1 / spread**2)
        diagonal = np.einsum("rkk->rk", normal)
        damped = normal + damping[:, None, None] * np.einsum("rk,kl->rkl", diagonal, np.eye(5))
        tried = x - np.clip(np.linalg.solve(damped, gradient[:, :, None])[:, :, 0], -1, 1)
        then = cost(tried)
        better = then < now
        x, now = np.where(better[:, None], tried, x), np.where(better, then, now)
        damping = np.where(better, damping / 4, damping * 4).clip(1e-9, 1e9)
    return x, now


def estimate(values: Any, resampled: Any) -> Estimate:
    """The first of `values`, and where 95 % of `resampled` lie."""
    low, high = np.quantile(resampled, [0.025, 0.975], method="inverted_cdf")  # some may be infinite
    best = float(values[0])
    return Estimate(best, min(float(low), best), max(float(high), best))
