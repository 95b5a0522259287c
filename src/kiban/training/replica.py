"""The last step in memory, twice: on the rank's own node and on a neighbour's, so that a run whose node is lost goes on
from that step and not from the last checkpoint on disk (as GEMINI does, SOSP 2023).

Processes end with a run's restart, so the copies are files in a folder that lies in memory (/dev/shm). Two steps are
held, since a rank may be lost while others have already kept the next.
"""

import re
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from kiban.artifacts.files import write_atomic

MODEL, OPTIMISER = "model.", "optimiser."
HELD = 2  # steps
NONE = -1


class Replica:
    """Of all ranks of `group`, which speaks gloo. `distance` is how many ranks away the copy goes: the ranks of a node,
    so that it lies on another. Collective: all ranks call all methods together."""

    def __init__(self, folder: Path, group: dist.ProcessGroup, distance: int = 1) -> None:
        self.folder, self.group = folder, group
        self.rank, self.ranks = group.rank(), group.size()
        self.keeper, self.kept = (self.rank + distance) % self.ranks, (self.rank - distance) % self.ranks
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, tensors: dict[str, Tensor], step: int) -> None:
        """After a step: what this rank has (`state_of`)."""
        ours = to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        write_atomic(self._path(self.rank, step), ours)
        theirs = self._swap(ours)
        if theirs is not None:
            write_atomic(self._path(self.kept, step), theirs)
        for rank in {self.rank, self.kept}:
            for old in self._steps(rank)[:-HELD]:
                self._path(rank, old).unlink()

    def restore(self) -> tuple[int, dict[str, Tensor]] | None:
        """The newest step that is there for all ranks, of as many ranks as wrote it; None if there is none, and then
        the checkpoint on disk counts."""
        held = torch.full((2, HELD), NONE)
        for row, rank in enumerate((self.rank, self.kept)):
            steps = self._steps(rank)[-HELD:]
            held[row, : len(steps)] = torch.tensor(steps, dtype=torch.int64)
        by_rank = [torch.empty_like(held) for _ in range(self.ranks)]
        dist.all_gather(by_rank, held, self.group)
        own, copies = ([set(by_rank[rank][row].tolist()) - {NONE} for rank in range(self.ranks)] for row in (0, 1))
        distance = (self.keeper - self.rank) % self.ranks
        found = [own[rank] | copies[(rank + distance) % self.ranks] for rank in range(self.ranks)]
        whole = set.intersection(*found)
        if not whole:
            return None
        step = max(whole)
        sent = None
        if step not in own[self.kept]:
            sent = self._send(self._path(self.kept, step).read_bytes(), self.kept)
        ours = self._path(self.rank, step).read_bytes() if step in own[self.rank] else self._receive(self.keeper)
        if sent is not None:
            for work in sent:
                work.wait()
        return step, from_bytes(ours)

    def _swap(self, ours: bytes) -> bytes | None:
        if self.ranks == 1:
            return None
        sent = self._send(ours, self.keeper)
        theirs = self._receive(self.kept)
        for work in sent:
            work.wait()
        return theirs

    def _send(self, content: bytes, rank: int) -> list[dist.Work]:
        size = torch.tensor([len(content)])
        self._leaving = (size, torch.frombuffer(bytearray(content), dtype=torch.uint8))  # lives until it has left
        works = [dist.isend(x, dist.get_global_rank(self.group, rank), self.group) for x in self._leaving]
        return [work for work in works if work is not None]

    def _receive(self, rank: int) -> bytes:
        source, size = dist.get_global_rank(self.group, rank), torch.empty(1, dtype=torch.int64)
        dist.recv(size, source, self.group)
        content = torch.empty(int(size), dtype=torch.uint8)
        dist.recv(content, source, self.group)
        return content.numpy().tobytes()

    def _path(self, rank: int, step: int) -> Path:
        return self.folder / f"rank-{rank}-of-{self.ranks}-step-{step}.safetensors"

    def _steps(self, rank: int) -> list[int]:
        names = re.compile(rf"rank-{rank}-of-{self.ranks}-step-(\d+)\.safetensors")
        matches = [names.fullmatch(path.name) for path in self.folder.iterdir()]
        return sorted(int(match[1]) for match in matches if match)


def state_of(model: nn.Module, optimisers: list[Optimizer]) -> dict[str, Tensor]:
    """What this rank holds of weights, buffers and moments."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    moments = {
        f"{OPTIMISER}{names[parameter]}/{key}": value
        for optimiser in optimisers
        for parameter, values in optimiser.state.items()
        for key, value in values.items()
    }
    weights = {MODEL + name: tensor for name, tensor in model.state_dict().items()}
    return {name: _local(tensor) for name, tensor in (weights | moments).items()}


@torch.no_grad()
def load_state(model: nn.Module, optimisers: list[Optimizer], tensors: dict[str, Tensor]) -> None:
    """What `state_of` gave, into a model that is cut up in the same way."""
    for name, tensor in model.state_dict().items():
        _local(tensor).copy_(tensors[MODEL + name])
    parameters = dict(model.named_parameters())
    holder = {p: optimiser for optimiser in optimisers for group in optimiser.param_groups for p in group["params"]}
    for key, value in tensors.items():
        if not key.startswith(OPTIMISER):
            continue
        name, _, moment = key.removeprefix(OPTIMISER).rpartition("/")
        parameter = parameters[name]
        if isinstance(parameter, DTensor) and value.dim() > 0:
            value = DTensor.from_local(
                value.to(parameter.device),
                parameter.device_mesh,
                parameter.placements,
                run_check=False,
                shape=parameter.shape,
                stride=parameter.stride(),
            )
        holder[parameter].state.setdefault(parameter, {})[moment] = value


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
