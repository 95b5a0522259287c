"""The same steps in one process and in several, and how far apart they end."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from kiban.model.moe import MoE
from kiban.model.transformer import Transformer
from kiban.tokenizer.special import BOS
from kiban.training.optimiser import optimisers
from tests.training import tiny

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    steps: int = 2
    dtype: torch.dtype = torch.float64
    optimiser: str = "adamw"
    rows: int = 4
    length: int = 32
    balance_weight: float = 0.01
    mask_documents: bool = True
    qk_clip: float = 0.1  # so low that it is reached
    crowded: bool = False  # every token goes to the first experts, the others get none
    config: dict[str, Any] = field(default_factory=lambda: {"num_nextn_predict_layers": 1})

    def model(self) -> Transformer:
        model = Transformer(tiny.config(**self.config))
        model.init_weights(torch.Generator().manual_seed(0))
        for moe in (module for module in model.modules() if self.crowded and isinstance(module, MoE)):
            moe.gate.e_score_correction_bias[: model.config.num_experts_per_tok] = 10.0
        model.to(self.dtype).train()
        model.dtype = self.dtype
        model.watch_logits()
        return model

    def optimisers(self, model: Transformer) -> list[torch.optim.Optimizer]:
        return optimisers(model, self.optimiser, 0.01, 0.1)

    def tokens(self, step: int) -> Tensor:
        """[rows, length + 1], in documents of 13 tokens."""
        generator = torch.Generator().manual_seed(step)
        tokens_BX = torch.randint(10, tiny.VOCABULARY, (self.rows, self.length + 1), generator=generator)
        tokens_BX[:, ::13] = BOS
        return tokens_BX


@dataclass
class Trace:
    """Of each step what is logged; of the first the gradients; of the last the weights."""

    steps: list[dict[str, float]] = field(default_factory=list)
    gradients: dict[str, Array] = field(default_factory=dict)
    weights: dict[str, Array] = field(default_factory=dict)

    def merged(self, other: "Trace") -> "Trace":
        """With what another rank has."""
        return Trace(self.steps, self.gradients | other.gradients, self.weights | other.weights)


def whole(tensor: Tensor) -> Array:
    """Of all the ranks that have a part of it."""
    tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return tensor.detach().clone().numpy()


def alone(case: Case) -> Trace:
    def backward(model: Transformer, tokens_BX: Tensor) -> dict[str, float]:
        document_BL = (tokens_BX[:, :-1] == BOS).cumsum(1) if case.mask_documents else None
        loss, stats = model.loss(tokens_BX[:, :-1], tokens_BX[:, 1:], case.balance_weight, document_BL)
        loss.backward()
        return {name: value.item() for name, value in stats.items()}

    def finish(model: Transformer) -> tuple[float, Tensor]:
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        return norm.item(), norm

    return trained(case, case.model(), backward, lambda model: finish(model)[0])


def trained(
    case: Case,
    model: Transformer,
    backward: Callable[[Transformer, Tensor], dict[str, float]],
    clip: Callable[[Transformer], float],
    before_update: Callable[[Transformer], None] = lambda model: None,
) -> Trace:
    """`before_update` sums over ranks what QK-clip and routing bias go by."""
    trace, steppers = Trace(), case.optimisers(model)
    for step in range(case.steps):
        model.zero_grad()
        stats = backward(model, case.tokens(step))
        if step == 0:
            trace.gradients = {n: whole(p.grad) for n, p in model.named_parameters() if p.grad is not None}
        stats["grad_norm"] = clip(model)
        for stepper in steppers:
            stepper.step()
        before_update(model)
        stats["max_logit"] = model.clip_logits(case.qk_clip)
        model.update_routing_bias(0.01)
        trace.steps.append(stats)
    trace.weights = {name: whole(value) for name, value in model.state_dict().items()}
    return trace


def assert_alike(found: Trace, expected: Trace, case: Case) -> None:
    """Relative 1e-5 in float64 throughout, of the largest number of a tensor; in float32 1e-5 for the first step and
    1e-3 after the last, of a tensor's norm: where a gradient is nearly zero, AdamW makes a step of its rounding."""
    exact = case.dtype == torch.float64
    size = (lambda x: np.abs(x).max()) if exact else np.linalg.norm
    last = 1e-5 if exact else 1e-3
    for step, (ours, theirs) in enumerate(zip(found.steps, expected.steps, strict=True)):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5 if step == 0 else last), (step, name)
    for ours, theirs, tolerance in (
        (found.gradients, expected.gradients, 1e-5),
        (found.weights, expected.weights, last),
    ):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            apart = size(ours[name] - value) / max(size(value), 1e-30)
            assert apart < tolerance, (name, apart)
