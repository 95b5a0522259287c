"""Matrix products of groups of rows, each with a matrix of its own: what a mixture of experts spends its time in.

One operation for CPU, CUDA and fake tensors, that torch.compile leaves as it is. On CUDA it is PyTorch's grouped GEMM,
which reads the sizes of the groups on the device, so that the host never waits for them.

X rows sorted by group, E groups, O outputs, I inputs.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


@torch.library.custom_op("kiban::grouped_linear", mutates_args=())
def grouped_linear(x_XI: Tensor, w_EOI: Tensor, ends_E: Tensor) -> Tensor:
    """[X, O]: the rows of group e, which ends before row `ends_E[e]` (int32), times the transpose of w[e]. Rows after
    the last group come out as anything at all."""
    if not x_XI.is_cpu:
        return torch._grouped_mm(x_XI, w_EOI.mT, offs=ends_E)
    y_XO = x_XI.new_empty(len(x_XI), w_EOI.shape[1])
    for e, start, end in _groups(ends_E):
        torch.mm(x_XI[start:end], w_EOI[e].T, out=y_XO[start:end])
    return y_XO


@torch.library.custom_op("kiban::grouped_outer", mutates_args=())
def grouped_outer(y_XO: Tensor, x_XI: Tensor, ends_E: Tensor) -> Tensor:
    """[E, O, I]: the transpose of y's rows of each group times its rows of x; zero for a group that has none."""
    if not x_XI.is_cpu:
        return torch._grouped_mm(y_XO.T, x_XI, offs=ends_E)
    out_EOI = x_XI.new_zeros(len(ends_E), y_XO.shape[1], x_XI.shape[1])
    for e, start, end in _groups(ends_E):
        torch.mm(y_XO[start:end].T, x_XI[start:end], out=out_EOI[e])
    return out_EOI


def _groups(ends_E: Tensor) -> list[tuple[int, int, int]]:
    ends = ends_E.tolist()
    return [(e, start, end) for e, (start, end) in enumerate(zip([0, *ends], ends, strict=False)) if end > start]


@grouped_linear.register_fake
def _(x_XI: Tensor, w_EOI: Tensor, ends_E: Tensor) -> Tensor:
    return x_XI.new_empty(x_XI.shape[0], w_EOI.shape[1])


@grouped_outer.register_fake
def _(y_XO: Tensor, x_XI: Tensor, ends_E: Tensor) -> Tensor:
    return x_XI.new_empty(ends_E.shape[0], y_XO.shape[1], x_XI.shape[1])


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy_XO: Tensor) -> tuple[Tensor, Tensor, None]:
    x_XI, w_EOI, ends_E = ctx.saved_tensors
    dy_XO = dy_XO.contiguous()
    return grouped_linear(dy_XO, w_EOI.mT, ends_E), grouped_outer(dy_XO, x_XI, ends_E), None


grouped_linear.register_autograd(_backward, setup_context=_save)


@register_flop_formula([torch.ops.kiban.grouped_linear, torch.ops.kiban.grouped_outer])
def _flops(a_shape: list[int], b_shape: list[int], *_: Any, **__: Any) -> int:
    """2 X O I for both: a is [X, I] or [X, O]; O, or I, stands in b, [E, O, I] or [X, I], where a does not have it."""
    other = b_shape[1]
    return 2 * a_shape[0] * a_shape[1] * other
