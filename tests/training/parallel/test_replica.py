"""A rank is killed and its node's memory lost: the run goes on from the last step, bit by bit."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from kiban.training.replica import Replica, load_state, state_of
from tests.training.parallel.alike import Case, whole
from tests.training.parallel.ranks import on_ranks

STEPS = 5


def run(folder: Path, die_at: int | None = None) -> tuple[int, dict[str, Any]]:
    """On each rank: the steps that are left. Rank 1 is killed after it has kept a step."""
    case, rank = Case(), dist.get_rank()
    model = case.model()
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimisers = case.optimisers(model)
    replica = Replica(folder / f"node-{rank}", dist.group.WORLD)
    restored = replica.restore()
    begin = 0
    if restored is not None:
        begin, tensors = restored
        load_state(model, optimisers, tensors)
    for step in range(begin, STEPS):
        tokens_BX = case.tokens(step)[rank : rank + 1]
        model.zero_grad()
        hidden = model(tokens_BX[:, :-1])  # enough of a model to learn with
        hidden.square().mean().backward()
        for optimiser in optimisers:
            optimiser.step()
        replica.keep(state_of(model, optimisers), step + 1)
        if step + 1 == die_at and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    return begin, {name: whole(value) for name, value in model.state_dict().items()}


def test_a_lost_node_costs_no_step(tmp_path: Path) -> None:
    (begun, expected), *_ = on_ranks(3, run, tmp_path / "through")
    assert begun == 0
    with pytest.raises(AssertionError, match="rank"):
        on_ranks(3, run, tmp_path / "killed", 3)
    shutil.rmtree(tmp_path / "killed" / "node-1")
    for begun, weights in on_ranks(3, run, tmp_path / "killed"):
        assert begun in (2, 3)  # of the ranks that were not killed one may not have kept the third yet
        assert all((weights[name] == expected[name]).all() for name in expected)


@pytest.mark.slow
def test_two_lost_neighbours_are_for_the_checkpoint(tmp_path: Path) -> None:
    on_ranks(3, run, tmp_path)
    for node in (1, 2):
        shutil.rmtree(tmp_path / f"node-{node}")
    assert [begun for begun, _ in on_ranks(3, run, tmp_path)] == [0, 0, 0]
