"""Real-time chunking: a new chunk of actions that goes on from the one being carried out (Black, Galliker and Levine
2025, "Real-Time Execution of Action Chunking Flow Policies", arXiv 2506.07339).

While a chunk is computed, the robot carries out the last one: the new chunk's first actions are settled before it is
there. The flow is guided to agree with them, and softly with the rest of the last chunk, as one inpaints a picture.

Flow: t = 0 is noise, t = 1 the action. Shapes: B batch, K chunk, A numbers of an action.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kiban.robotics.agent import Agent

Estimate = Callable[[Tensor, Tensor], Tensor]  # (x_t [B, K, A], t [B]) -> the actions [B, K, A] that x_t came from

MOST_GUIDANCE = 5.0  # the paper's beta: with few steps, more overshoots
LONGEST = 1.0  # times the error's length: what a correction by the Jacobian may come to


def soft_mask(chunk: int, delay: int, execute: int) -> Tensor:
    """How far each action of a new chunk [K] is bound to the last chunk's (the paper's eq. 5).

    The first `delay` fully: they are carried out before the new chunk is there. The last `execute` not at all: the last
    chunk does not reach so far. Between them, less and less.
    """
    delay = min(delay, chunk)
    bound = max(chunk - execute, delay)
    weights = torch.zeros(chunk)
    weights[:delay] = 1.0
    for i in range(delay, bound):
        c = (bound - i) / (bound - delay + 1)
        weights[i] = c * (math.exp(c) - 1) / (math.e - 1)
    return weights


def guided_sample(
    estimate: Estimate,
    noise_BKA: Tensor,
    steps: int,
    last_BKA: Tensor,
    weights_K: Tensor,
    jacobian: bool = True,
    longest: float = LONGEST,
) -> Tensor:
    """Actions [B, K, A] by `steps` Euler steps from noise, guided to agree with `last` where `weights` say so.

    With e = weights (last - estimate) the velocity becomes v + min(MOST_GUIDANCE, (1 - t) / (t r^2)) J' e, where r^2 =
    (1 - t)^2 / (t^2 + (1 - t)^2) and J is the Jacobian of the estimate by x_t (the paper's eqs. 2 to 4; Pokle et al.
    2024). J' tells the actions after those that are settled of the correction: without `jacobian` it is taken for the
    identity, which costs no backward pass, and each action is corrected by itself alone.

    Between two ways to go J is huge, and in few steps J' e throws the chunk far off both: it is cut to `longest` times
    the length of e (the paper does not; infinity is the paper's).
    """
    x_BKA = noise_BKA
    weights_K1 = weights_K[:, None].to(noise_BKA)
    for step in range(steps):
        t = step / steps
        time_B = torch.full((len(x_BKA),), t)
        if jacobian:
            with torch.enable_grad():
                x_BKA = x_BKA.detach().requires_grad_()
                estimated_BKA = estimate(x_BKA, time_B)
                error_BKA = weights_K1 * (last_BKA - estimated_BKA).detach()
                (correction_BKA,) = torch.autograd.grad(estimated_BKA, x_BKA, error_BKA)
            x_BKA, estimated_BKA = x_BKA.detach(), estimated_BKA.detach()
            lengths_B11 = correction_BKA.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
            correction_BKA *= (longest * error_BKA.norm(dim=(1, 2), keepdim=True) / lengths_B11).clamp(max=1.0)
        else:
            with torch.no_grad():
                estimated_BKA = estimate(x_BKA, time_B)
            correction_BKA = weights_K1 * (last_BKA - estimated_BKA)
        guidance = MOST_GUIDANCE if t == 0 else min(MOST_GUIDANCE, (t**2 + (1 - t) ** 2) / (t * (1 - t)))
        x_BKA = x_BKA + ((estimated_BKA - x_BKA) / (1 - t) + guidance * correction_BKA) / steps
    return x_BKA


@dataclass
class RealTimeAgent:
    """An agent that plans ahead for `control.ControlLoop`. `execute`: how many actions are carried out before it plans
    again; `guided` False computes each chunk without regard to the last; `jacobian` as in `guided_sample`."""

    agent: Agent
    execute: int
    guided: bool = True
    jacobian: bool = True

    def chunk(self, observation: dict[str, Any], last: NDArray[np.float64] | None, delay: int) -> NDArray[np.float64]:
        """The next actions [K, A], the first for now. `last`: those of the last chunk from now on, as far as it goes;
        `delay`: how many of them will have been carried out when this is done."""
        estimate, noise_1KA = self.agent.denoiser(observation)
        normaliser = self.agent.action_normaliser
        steps, size = self.agent.description.euler_steps, noise_1KA.shape[1]
        if not self.guided or last is None or not len(last):
            last_1KA, weights_K = torch.zeros_like(noise_1KA), torch.zeros(size)
        else:
            known = min(len(last), size)
            last_1KA = torch.zeros_like(noise_1KA)
            last_1KA[0, :known] = normaliser.apply(torch.from_numpy(last[:known]).float())
            weights_K = soft_mask(size, min(delay, known), max(self.execute, size - known))
        jacobian = self.jacobian and bool(weights_K.any())
        actions = guided_sample(estimate, noise_1KA, steps, last_1KA, weights_K, jacobian)
        return normaliser.undo(actions)[0].double().numpy()
