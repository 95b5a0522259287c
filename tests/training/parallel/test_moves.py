"""What a layout saved, others load; and whatever happens to a rank, the run goes on as one process would."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from kiban.model.layout import Layout
from kiban.training.checkpoint import MODEL, Checkpoints, Identity, Position, read_tensors
from kiban.training.optimiser import optimisers
from kiban.training.parallelize import parallelize
from tests.training import tiny
from tests.training.parallel.alike import Case, whole
from tests.training.parallel.ranks import on_ranks

CASE = Case(dtype=torch.float32, optimiser="muon")


def stepped(folder: Path, sizes: dict[str, Any], step: int, steps: int) -> tuple[list[float], dict[str, Any]]:
    """From the checkpoint of `step`, if it is not 0, so many steps under a layout, which are saved. Gives the losses,
    and the weights at the start."""
    parallel = parallelize(CASE.model(), Layout(dist.get_world_size(), **sizes), CASE.length, CASE.rows)
    model = parallel.model
    steppers = optimisers(model, CASE.optimiser, 0.01, 0.1)
    saved = Checkpoints(folder, Identity({}, {}, ""), 2, print, dist.new_group())
    position = saved.restore(model, steppers)
    assert (position.step if position else 0) == step
    start, losses = {name: whole(value) for name, value in model.state_dict().items()}, []
    for number in range(step, step + steps):
        model.zero_grad()
        rows = parallel.rows(CASE.rows)
        losses.append(parallel.backward(CASE.tokens(number)[rows.start : rows.stop], 1)["loss"].item())
        parallel.clip_grad_norm(1.0)
        for stepper in steppers:
            stepper.step()
        parallel.sum_counts()
        model.update_routing_bias(0.01)
    saved.save(model, steppers, Position(step + steps, 0.0, 1.0))
    saved.wait()
    dist.barrier()
    return losses, start


MOVES: list[tuple[int, dict[str, Any]]] = [
    (2, {"expert": 2}),
    (1, {}),
    (2, {"tensor": 2}),
    (2, {"pipeline": 2}),
    (2, {"shard": 3}),
]


def moved(folder: Path, moves: list[tuple[int, dict[str, Any]]]) -> None:
    [(straight, _)] = on_ranks(1, stepped, folder / "straight", {}, 0, 2 * len(moves))
    losses: list[float] = []
    ends: dict[str, Any] = {}
    for number, (ranks, sizes) in enumerate(moves):
        found = on_ranks(ranks, stepped, folder / "moved", sizes, 2 * number, 2)
        for _, start in found:
            assert all((start[name] == value).all() for name, value in ends.items() if name in start)
        ends = {n: v.numpy() for n, v in read_tensors(max((folder / "moved").iterdir()), MODEL).items()}
        losses += found[0][0]
    assert losses == pytest.approx(straight, rel=1e-4)


def test_a_checkpoint_moves_from_expert_ranks_to_one(tmp_path: Path) -> None:
    moved(tmp_path, MOVES[:2])


@pytest.mark.slow
def test_a_checkpoint_moves_through_all_layouts(tmp_path: Path) -> None:
    moved(tmp_path, MOVES)


def launch(
    folder: Path, sizes: dict[str, Any], settings: dict[str, Any], restarts: int = 0, **wound: str
) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": f"{root / 'src'}:{root}", "OMP_NUM_THREADS": "1"} | wound
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts",
        str(restarts), "-m", "tests.training.parallel.launched", str(folder), json.dumps(sizes), json.dumps(settings),
    ]  # fmt: skip
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    tiny.run(folder, **SHORT)
    return folder


SHORT: dict[str, Any] = {"tokens": 32 * 4 * 10}


@pytest.mark.slow
def test_a_killed_rank_is_named_and_the_run_goes_on_with_the_same_data(straight: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").symlink_to(straight / "tokens")
    done = launch(tmp_path, {"expert": 2}, SHORT, 1, KILL="1:6")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rank 1 does not answer: killed or hung; rank 0 waited for it in " in done.stderr
    assert losses(tmp_path) == pytest.approx(losses(straight), rel=1e-3)


@pytest.mark.slow
def test_a_hung_rank_is_named_within_the_timeout(straight: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").symlink_to(straight / "tokens")
    done = launch(tmp_path, {}, SHORT | {"rank_timeout_seconds": 10}, HANG="1:3")
    assert done.returncode != 0
    assert "rank 1 does not answer: killed or hung" in done.stderr
