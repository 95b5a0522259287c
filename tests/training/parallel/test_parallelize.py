"""Every layout gives the losses, gradients and weights of one process."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from kiban.model.layout import Layout
from kiban.training.parallelize import parallelize
from tests.training.parallel.alike import Case, Trace, alone, assert_alike, trained
from tests.training.parallel.ranks import on_ranks


def laid_out(case: Case, layout: Layout) -> Trace:
    parallel = parallelize(case.model(), layout, case.length, case.rows)

    def backward(model: Any, tokens_BX: torch.Tensor) -> dict[str, float]:
        rows = parallel.rows(len(tokens_BX))
        stats = parallel.backward(tokens_BX[rows.start : rows.stop], 1, case.balance_weight, case.mask_documents)
        return {name: value.item() for name, value in stats.items()}

    return trained(
        case,
        parallel.model,
        backward,
        lambda model: parallel.clip_grad_norm(1.0).item(),
        lambda model: parallel.sum_counts(),
    )


def assert_laid_out(case: Case, **sizes: Any) -> None:
    layout = Layout(**sizes)
    expected = alone(case)
    traces = on_ranks(layout.gpus, laid_out, case, layout)
    logits = [max(trace.steps[step].pop("max_logit") for trace in traces) for step in range(case.steps)]
    assert logits == pytest.approx(
        [step.pop("max_logit") for step in expected.steps], rel=1e-3 if case.dtype == torch.float32 else 1e-5
    )
    whole = traces[0]
    for trace in traces:
        assert trace.steps == whole.steps
        whole = whole.merged(trace)
    assert_alike(whole, expected, case)


CASE = Case()


def test_fully_sharded() -> None:
    assert_laid_out(CASE, gpus=2, shard=3)


def test_experts_on_other_ranks_with_muon() -> None:
    assert_laid_out(replace(CASE, optimiser="muon"), gpus=2, expert=2)


def test_one_rank_gets_every_token_and_the_other_none() -> None:
    config = CASE.model().config
    assert config.num_experts_per_tok <= config.n_routed_experts // 2
    assert_laid_out(replace(CASE, crowded=True), gpus=2, expert=2)


def test_tensor_parallel() -> None:
    assert_laid_out(CASE, gpus=2, tensor=2)
