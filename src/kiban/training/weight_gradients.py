"""The gradients of weights apart from those of inputs, so that they can be taken later: what zero-bubble schedules fill
their bubbles with (arXiv 2401.10241, section 2). Of all products with matrices, the experts' among them; norms,
embedding and head, which cost little or are taken with the loss, stay where they are.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from kiban.model.grouped import grouped_linear, grouped_outer


class Later(TorchFunctionMode):
    """Products that are computed within this context leave the gradients of their weights to `take`, which is called
    after the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[tuple[Tensor, Callable[[], Tensor]]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.linear and len(args) == 2 and args[1].requires_grad and torch.is_grad_enabled():
            return _Linear.apply(*args, self._waiting)
        if func is torch.ops.kiban.grouped_linear.default and args[1].requires_grad and torch.is_grad_enabled():
            return _GroupedLinear.apply(*args, self._waiting)
        return func(*args, **(kwargs or {}))

    def take(self) -> None:
        """Adds the gradients to those of the weights, where a weight was cast for the product through the cast."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            weights = [weight for weight, _ in waiting]
            torch.autograd.backward(weights, [gradient() for _, gradient in waiting])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, waiting: list[Any]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.waiting = waiting
        return F.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        ctx.waiting.append((weight, lambda: dy.flatten(0, -2).mT @ x.flatten(0, -2)))
        return dy @ weight if ctx.needs_input_grad[0] else None, None, None


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_XI: Tensor, w_EOI: Tensor, ends_E: Tensor, waiting: list[Any]) -> Tensor:
        ctx.save_for_backward(x_XI, w_EOI, ends_E)
        ctx.waiting = waiting
        return grouped_linear(x_XI, w_EOI, ends_E)

    @staticmethod
    def backward(ctx: Any, dy_XO: Tensor) -> tuple[Tensor, None, None, None]:
        x_XI, w_EOI, ends_E = ctx.saved_tensors
        dy_XO = dy_XO.contiguous()
        ctx.waiting.append((w_EOI, lambda: grouped_outer(dy_XO, x_XI, ends_E)))
        return grouped_linear(dy_XO, w_EOI.mT, ends_E), None, None, None
