"""Layers cut over ranks: the same losses, gradients and weights as in one process, whatever the schedule."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.experimental import implicit_replication

from kiban.artifacts.errors import KibanError
from kiban.model.attention import Attention
from kiban.model.moe import MoE
from kiban.training.context_parallel import Context
from kiban.training.pipeline import Pipeline, cut, stages_of
from kiban.training.pipeline_schedule import schedule
from kiban.training.weight_gradients import Later
from tests.training import tiny
from tests.training.parallel.alike import Case, Trace, alone, assert_alike, trained
from tests.training.parallel.ranks import on_ranks
from tests.training.parallel.timing import bubble, most_held


@pytest.mark.parametrize("virtual", [1, 2, 3])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_bubbles_are_those_of_the_papers(ranks: int, virtual: int) -> None:
    """With F, I and W at 1 for a stage: (P - 1)(F + I + W) of 1F1B, a part of a rank's work that falls with `virtual`;
    (P - 1)(F + I - W) of zero-bubble, in the memory of 1F1B's first rank."""
    for rounds in (2, 4):
        plain, split = (schedule(name, ranks, virtual, rounds * ranks) for name in ("1f1b", "zero-bubble"))
        assert bubble(plain) == 3 * (ranks - 1)
        assert bubble(split) == ranks - 1
        assert max(map(most_held, split)) <= max(map(most_held, plain))


@pytest.mark.parametrize("name", ["1f1b", "zero-bubble"])
def test_every_micro_batch_passes_every_stage(name: Any) -> None:
    for ranks, virtual, micros in ((1, 1, 3), (2, 1, 1), (3, 1, 2), (3, 1, 7), (2, 2, 2), (4, 2, 12)):
        table = schedule(name, ranks, virtual, micros)
        bubble(table)  # asserts that nothing waits for itself
        passed = [(a.kind, a.stage, a.micro) for order in table for a in order]
        kinds = "FB" if name == "1f1b" else "FIW"
        assert sorted(passed) == sorted((k, s, m) for k in kinds for s in range(ranks * virtual) for m in range(micros))
    with pytest.raises(KibanError, match="multiples of pipeline = 2, and a step has 3"):
        schedule(name, 2, 2, 3)


def test_stages_count_embedding_and_head_as_layers() -> None:
    def counts(number: int, layers: tuple[int, ...] | None = None, **changes: int) -> list[int]:
        return [len(s.layers) for s in stages_of(tiny.config(**({"num_hidden_layers": 6} | changes)), number, layers)]

    assert counts(1) == [6]
    assert counts(2) == [3, 3]
    assert counts(4) == [1, 2, 2, 1]
    assert counts(4, num_hidden_layers=9, num_nextn_predict_layers=1) == [2, 3, 3, 1]
    assert counts(8) == [0, 1, 1, 1, 1, 1, 1, 0]
    assert counts(3, (1, 5, 0)) == [1, 5, 0]
    with pytest.raises(KibanError, match=r"\[1, 4\]: must be 2 numbers with the sum 6"):
        counts(2, (1, 4))
    with pytest.raises(KibanError, match="9 pipeline stages for 6 layers: at most 8"):
        counts(9)


def test_the_gradients_of_weights_can_be_taken_later() -> None:
    case = Case()
    model, tokens_BX = case.model(), case.tokens(0)
    loss, _ = model.loss(tokens_BX[:, :-1], tokens_BX[:, 1:])
    loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    with Later() as later:
        loss, _ = model.loss(tokens_BX[:, :-1], tokens_BX[:, 1:])
    loss.backward()
    left = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert left == [n for n, p in model.named_parameters() if p.dim() > 1 and "embed" not in n and "lm_head" not in n]
    later.take()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-12, atol=1e-15)


def piped(case: Case, sizes: tuple[int, int, int], name: Any = "1f1b", virtual: int = 1, layers: Any = None) -> Trace:
    """On each rank of pipeline x data x context; FSDP over the last two, if they are more than one rank."""
    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("pipeline", "data", "context"))
    folded = mesh["data", "context"]._flatten("fsdp")
    model = case.model()
    context = Context(case.length, mesh["context"].get_group())
    group = mesh["pipeline"].get_group()
    stages = stages_of(model.config, group.size() * virtual, layers)
    cut(model, stages, group.rank(), group.size())
    if folded.size() > 1:
        for module in [*(block for block in [*model.layers, model.mtp] if block is not None), model]:
            fully_shard(module, mesh=folded).set_gradient_divide_factor(1.0)

    pipeline = Pipeline(model, context, stages, group, name)

    def backward(model: Any, tokens_BX: torch.Tensor) -> dict[str, float]:
        rows_BX = tokens_BX.chunk(sizes[1])[mesh["data"].get_local_rank()]
        stats = pipeline.backward(rows_BX, 1, 1 / sizes[1], case.balance_weight, case.mask_documents)
        for tensor in stats.values():
            dist.all_reduce(tensor)
        return {name: value.item() for name, value in stats.items()}

    def counts(model: Any) -> None:
        for module in model.modules():
            if isinstance(module, MoE):
                dist.all_reduce(module.load_E, group=folded.get_group())
            elif isinstance(module, Attention):
                dist.all_reduce(module.max_logit_H, dist.ReduceOp.MAX, folded.get_group())

    with implicit_replication():
        return trained(case, model, backward, lambda model: pipeline.clip_grad_norm(1.0).item(), counts)


def assert_piped(case: Case, ranks: int, data: int = 1, context: int = 1, schedule: tuple[Any, ...] = ()) -> None:
    expected = alone(case)
    traces = on_ranks(ranks * data * context, piped, case, (ranks, data, context), *schedule)
    logits = [max(trace.steps[step].pop("max_logit") for trace in traces) for step in range(case.steps)]
    assert logits == pytest.approx(
        [step.pop("max_logit") for step in expected.steps], rel=1e-3 if case.dtype == torch.float32 else 1e-5
    )
    whole = traces[0]
    for trace in traces:
        assert trace.steps == whole.steps
        for name in whole.weights.keys() & trace.weights.keys():  # the copy of the embedding
            assert (whole.weights[name] == trace.weights[name]).all(), name
        whole = whole.merged(trace)
    assert_alike(whole, expected, case)


FOUR = {"num_nextn_predict_layers": 1, "num_hidden_layers": 4}


def test_interleaved_stages_with_split_backward_are_one_process() -> None:
    assert_piped(Case(config=FOUR), 2, schedule=("zero-bubble", 2))


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("ranks", "schedule"),
    [
        (2, ("1f1b",)),
        (2, ("1f1b", 2, (0, 2, 1, 1))),
        (3, ("zero-bubble",)),
    ],
)
def test_twenty_steps(ranks: int, schedule: tuple[Any, ...], dtype: torch.dtype, optimiser: str) -> None:
    assert_piped(Case(steps=20, dtype=dtype, optimiser=optimiser, config=FOUR), ranks, schedule=schedule)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "schedule"),
    [
        ((1, 1, 2), ("1f1b",)),
        ((2, 2, 1), ("1f1b",)),
        ((2, 1, 2), ("zero-bubble", 2)),
    ],
)
def test_fsdp_over_data_and_context(sizes: tuple[int, int, int], schedule: tuple[Any, ...]) -> None:
    assert_piped(Case(steps=20, config=FOUR), *sizes, schedule=schedule)
