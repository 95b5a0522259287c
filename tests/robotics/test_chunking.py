"""Real-time chunking: a new chunk goes on from the last; the denoiser's Jacobian carries the correction past it."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kiban.robotics.chunking import guided_sample, soft_mask

K, A, STEPS = 16, 2, 10


def smooth_movements() -> Tensor:
    """Covariance [K, K] of actions that change slowly: what demonstrations are like."""
    i = torch.arange(K, dtype=torch.float64)
    return torch.exp(-0.5 * ((i[:, None] - i[None]) / 4.0) ** 2) + 1e-4 * torch.eye(K, dtype=torch.float64)


def denoiser_of_two_ways(apart: float):  # type: ignore[no-untyped-def]
    """The exact denoiser of two ways to go, each a smooth movement around +-apart: E[a | x_t], not a trained one.

    x_t = (1 - t) noise + t a; for a ~ N(m, S): E[a | x_t] = m + t S (t^2 S + (1 - t)^2 I)^-1 (x_t - t m), and the ways
    are weighted by how likely each made x_t.
    """
    covariance = smooth_movements()

    def estimate(x_BKA: Tensor, time_B: Tensor) -> Tensor:
        x, t = x_BKA.double(), float(time_B[0])
        spread = t**2 * covariance + (1 - t) ** 2 * torch.eye(K, dtype=torch.float64)
        inverse = torch.linalg.inv(spread)
        answers, scores = [], []
        for mean in (-apart, apart):
            off = x - t * mean
            answers.append(mean + t * torch.einsum("ij,bja->bia", covariance @ inverse, off))
            scores.append(-0.5 * torch.einsum("bia,ij,bja->b", off, inverse, off))
        share = torch.stack(scores).softmax(dim=0)
        return (share[0, :, None, None] * answers[0] + share[1, :, None, None] * answers[1]).to(x_BKA)

    return estimate


def plain_sample(estimate, noise: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    return guided_sample(estimate, noise, STEPS, torch.zeros_like(noise), torch.zeros(K), jacobian=False)


def rms(x: Tensor) -> float:
    return math.sqrt(float(x.square().mean()))


def borders(apart: float, delay: int, execute: int, episodes: int = 200) -> dict[str, float]:
    """The jump at the border, where the new chunk takes over after `delay` more actions of the last: root mean square.

    Of chunks that know nothing of the last one, of each kind of guidance, and `within` a chunk.
    """
    estimate = denoiser_of_two_ways(apart)
    generator = torch.Generator().manual_seed(0)
    shape = (episodes, K, A)
    last = plain_sample(estimate, torch.randn(shape, generator=generator, dtype=torch.float64))
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    rest = torch.zeros_like(last)
    rest[:, : K - execute] = last[:, execute:]
    weights = soft_mask(K, delay, execute)
    chunks = {
        "unguided": plain_sample(estimate, noise),
        "shortcut": guided_sample(estimate, noise, STEPS, rest, weights, jacobian=False),
        "jacobian": guided_sample(estimate, noise, STEPS, rest, weights),
        "unbounded": guided_sample(estimate, noise, STEPS, rest, weights, longest=math.inf),
    }
    found = {name: rms(chunk[:, delay] - rest[:, delay - 1]) for name, chunk in chunks.items()}
    return found | {"within": rms(last.diff(dim=1))}


@pytest.mark.parametrize("delay", [2, 4])
def test_the_jacobian_makes_the_jumps_at_the_borders_smaller(delay: int) -> None:
    """One way to go, or two that are near: by a fifth to a third against the shortcut; unguided it is a leap."""
    for apart in (0.0, 1.5):
        jump = borders(apart, delay, execute=8)
        assert jump["unguided"] > 4 * jump["within"]
        assert jump["shortcut"] < 1.3 * jump["within"]
        assert jump["jacobian"] < 0.85 * jump["shortcut"]


def test_between_two_ways_the_paper_s_jacobian_has_to_be_bounded() -> None:
    jump = borders(4.0, 4, execute=8)
    assert jump["unbounded"] > 5 * jump["shortcut"]
    assert jump["jacobian"] < jump["shortcut"]


def test_the_two_differ_where_they_should() -> None:
    """The shortcut moves what is bound; the Jacobian, in the first step that it can, what follows as well."""
    estimate = denoiser_of_two_ways(0.0)
    noise, last = torch.zeros(1, K, A, dtype=torch.float64), torch.ones(1, K, A, dtype=torch.float64)
    weights = torch.zeros(K)
    weights[:4] = 1.0
    plain = plain_sample(estimate, noise)
    shortcut = guided_sample(estimate, noise, 1, last, weights, jacobian=False)
    assert (shortcut[:, :4] != plain[:, :4]).all() and torch.equal(shortcut[:, 4:], torch.zeros(1, K - 4, A).double())
    by_jacobian = guided_sample(estimate, noise, 2, last, weights)
    assert by_jacobian[0, 4, 0] > 0.1 and by_jacobian[0, 5, 0] > 0.05  # the movement goes on


def test_the_jacobian_is_the_denoisers() -> None:
    """One step from t = 0 of a linear denoiser, worked out by hand."""
    generator = torch.Generator().manual_seed(1)
    matrix = 0.05 * torch.randn(K, K, generator=generator)
    noise, last = torch.randn(1, K, A, generator=generator), torch.randn(1, K, A, generator=generator)
    weights = soft_mask(K, 3, 5)

    def linear(x: Tensor, t: Tensor) -> Tensor:
        return torch.einsum("ij,bja->bia", matrix, x)

    error = weights[:, None] * (last - linear(noise, torch.zeros(1)))
    by_hand = linear(noise, torch.zeros(1)) + 5.0 * torch.einsum("ji,bja->bia", matrix, error)
    assert torch.allclose(guided_sample(linear, noise, 1, last, weights, longest=math.inf), by_hand, atol=1e-5)


def test_the_mask_is_the_papers() -> None:
    mask = soft_mask(10, 3, 4)
    assert mask[:3].tolist() == [1.0] * 3 and mask[6:].tolist() == [0.0] * 4
    c = (6 - 4) / (6 - 3 + 1)
    assert mask[4] == pytest.approx(c * (math.exp(c) - 1) / (math.e - 1))
    assert np.all(np.diff(mask.numpy()) <= 0)
    assert soft_mask(4, 9, 2).tolist() == [1.0] * 4 and soft_mask(4, 0, 4).tolist() == [0.0] * 4
