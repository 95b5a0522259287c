"""Sequences cut over ranks: the same losses, gradients and weights as in one process."""

import pytest
import torch
import torch.distributed as dist

from kiban.artifacts.errors import KibanError
from kiban.model.attention import Attention
from kiban.model.moe import MoE
from kiban.model.transformer import Transformer
from kiban.training.context_parallel import Context, runs_of
from kiban.training.pipeline import Pipeline
from tests.training.parallel.alike import Case, Trace, alone, assert_alike, trained
from tests.training.parallel.ranks import on_ranks


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_every_position_is_somebodys_and_the_work_is_equal(ranks: int) -> None:
    runs = [runs_of(rank, ranks, 64) for rank in range(ranks)]
    assert sorted(p for own in runs for start, end in own for p in range(start, end)) == list(range(64))
    seen = [sum(p + 1 for start, end in own for p in range(start, end)) for own in runs]  # keys that are looked at
    assert len(set(seen)) == 1


def test_what_does_not_divide_is_named() -> None:
    with pytest.raises(KibanError, match="sequences of 30 tokens do not divide into the 4 parts that context = 2"):
        runs_of(0, 2, 30)


def cut(case: Case) -> Trace:
    """On each rank of a context group of all."""
    group = dist.group.WORLD
    model = case.model()
    pipeline = Pipeline(model, Context(case.length, group))

    def backward(model: Transformer, tokens_BX: torch.Tensor) -> dict[str, float]:
        stats = pipeline.backward(tokens_BX, case.rows // 2, 1.0, case.balance_weight, case.mask_documents)
        for tensor in [*stats.values(), *(p.grad for p in model.parameters())]:
            dist.all_reduce(tensor)
        return {name: value.item() for name, value in stats.items()}

    def counts(model: Transformer) -> None:
        for module in model.modules():
            if isinstance(module, MoE):
                dist.all_reduce(module.load_E)
            elif isinstance(module, Attention):
                dist.all_reduce(module.max_logit_H, dist.ReduceOp.MAX)

    def clip(model: Transformer) -> float:
        return torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()

    return trained(case, model, backward, clip, counts)


def test_two_ranks_are_one() -> None:
    case = Case()
    expected = alone(case)
    for found in on_ranks(2, cut, case):
        assert_alike(found, expected, case)


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("ranks", [2, 4])
def test_twenty_steps(ranks: int, dtype: torch.dtype, optimiser: str) -> None:
    case = Case(steps=20, dtype=dtype, optimiser=optimiser)
    expected = alone(case)
    for found in on_ranks(ranks, cut, case):
        assert_alike(found, expected, case)
