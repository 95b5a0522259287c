"""The layouts that large models take, several axes at once, give the losses, gradients and weights of one process."""

import time
from typing import Any

import pytest
import torch
import torch.distributed as dist

from kiban.model.layout import Layout
from kiban.model.presets import preset
from kiban.model.transformer import Transformer
from kiban.training.optimiser import optimisers
from kiban.training.parallelize import parallelize
from tests.training.parallel.alike import Case
from tests.training.parallel.ranks import on_ranks
from tests.training.parallel.test_parallelize import assert_laid_out

FOUR = {"num_nextn_predict_layers": 1, "num_hidden_layers": 4}
LAYOUTS: dict[str, dict[str, Any]] = {
    "pipeline x experts x FSDP": {"gpus": 4, "pipeline": 2, "expert": 2, "shard": 3},
    "pipeline (zero-bubble, interleaved) x experts x FSDP": {
        "gpus": 4,
        "pipeline": 2,
        "virtual": 2,
        "schedule": "zero-bubble",
        "expert": 2,
        "shard": 3,
    },
    "context x FSDP": {"gpus": 4, "context": 2, "shard": 3},
    "tensor x experts x FSDP": {"gpus": 4, "tensor": 2, "expert": 2, "shard": 3},
    "replicas x experts x FSDP": {"gpus": 4, "shard_ranks": 2, "expert": 2, "shard": 3},
    "pipeline x tensor x FSDP x experts": {"gpus": 8, "pipeline": 2, "tensor": 2, "expert": 4, "shard": 3},
    "pipeline x context x tensor, experts over context x tensor": {
        "gpus": 8,
        "pipeline": 2,
        "context": 2,
        "tensor": 2,
        "expert": 4,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_twenty_steps(name: str, optimiser: str) -> None:
    assert_laid_out(Case(steps=20, optimiser=optimiser, rows=8, config=FOUR), **LAYOUTS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LAYOUTS)[:3])
def test_three_steps_in_float32(name: str) -> None:
    """No more: once rounding has sent a token to another expert, the ways part."""
    assert_laid_out(Case(steps=3, dtype=torch.float32, optimiser="muon", rows=8, config=FOUR), **LAYOUTS[name])


def nano(sizes: dict[str, Any], steps: int) -> list[float]:
    """The losses of `steps` steps of the preset, on each rank."""
    config = preset("nano").model_copy(update={"num_nextn_predict_layers": 1})
    length, rows = config.max_position_embeddings, 4
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    parallel = parallelize(model.train(), Layout(gpus=dist.get_world_size(), **sizes), length, rows)
    steppers = optimisers(model, "adamw", 2e-3, 0.1)
    losses = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(step % 4)
        tokens_BX = torch.randint(16, config.vocab_size, (rows, length + 1), generator=generator)
        model.zero_grad()
        mine = parallel.rows(rows)
        losses.append(parallel.backward(tokens_BX[mine.start : mine.stop], 1)["loss"].item())
        parallel.clip_grad_norm(1.0)
        for stepper in steppers:
            stepper.step()
        parallel.sum_counts()
        model.update_routing_bias()
    return losses


@pytest.mark.slow
def test_nano_on_eight_ranks() -> None:
    """20 steps in less than ten minutes on two cores, and as in one process."""
    began = time.monotonic()
    found = on_ranks(8, nano, {"pipeline": 2, "context": 2, "tensor": 2, "expert": 4}, 20)
    assert time.monotonic() - began < 600
    assert found[0][-1] < found[0][0] - 0.5
    alone = on_ranks(1, nano, {}, 2)[0]
    for losses in found:
        assert losses[:2] == pytest.approx(alone, rel=1e-4)
