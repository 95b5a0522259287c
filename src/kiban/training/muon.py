"""Muon: momentum whose matrices are orthogonalised before they are applied (Jordan 2024), with the update scaled to
AdamW's root mean square and decoupled weight decay (Moonlight, arXiv 2502.16982), so that one learning rate serves
both.

O rows, I columns of a matrix; E matrices in a stack.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

MOMENTUM = 0.95
STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan's quintic: steepest at 0, singular values end in 0.7 to 1.2
ADAMW_RMS = 0.2  # what Moonlight measured AdamW's updates to have, in learning rates


class Muon(torch.optim.Optimizer):
    """For matrices [O, I] and stacks of them [E, O, I]. Those of a group with `joined = n` are n matrices one above the
    other, each of which is orthogonalised by itself."""

    def __init__(self, params: Iterable[dict[str, Any]], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "joined": 1, "scale": 1.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step. The momentum is Nesterov's."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state: dict[str, Any] = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
                update = parameter.grad.lerp(momentum, MOMENTUM)
                whole = whole_matrices(update)
                rows = whole.shape[-2] // group["joined"]
                update_EOI = whole.reshape(-1, rows, whole.shape[-1])
                size = ADAMW_RMS * max(update_EOI.shape[-2:]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                found = parts_like(update, orthogonalised(update_EOI).view_as(whole))
                parameter.add_(found, alpha=-group["lr"] * size)


def whole_matrices(x: Tensor) -> Tensor:
    """Of a tensor that ranks share, matrices that this rank orthogonalises: all of a single one, which every rank then
    takes; of a stack as many as fall to it, so that each is taken once."""
    return _by_matrix(x).to_local() if isinstance(x, DTensor) else x


def parts_like(x: Tensor, whole: Tensor) -> Tensor:
    """What `whole_matrices` gave of x goes back to where it is kept."""
    if not isinstance(x, DTensor):
        return whole
    found = _by_matrix(x)
    return DTensor.from_local(
        whole, x.device_mesh, found.placements, run_check=False, shape=x.shape, stride=x.stride()
    ).redistribute(placements=x.placements)


def _by_matrix(x: DTensor) -> DTensor:
    kept = [p if x.dim() == 3 and p == Shard(0) else Replicate() for p in x.placements]
    return x.redistribute(placements=kept)


def orthogonalised(x_EOI: Tensor) -> Tensor:
    """About U V^T of each matrix U S V^T, by five Newton-Schulz steps; zeros stay zeros. In bfloat16 on a GPU, where
    the iteration is known to bear it, and in the given dtype elsewhere."""
    a, b, c = COEFFICIENTS
    wide = x_EOI.shape[-2] <= x_EOI.shape[-1]
    x = x_EOI if wide else x_EOI.mT
    x = x.to(torch.bfloat16) if x.is_cuda else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).to(x_EOI.dtype)
