"""Which parameters are descended how. AdamW (arXiv 1711.05101) for all, or Muon for the matrices inside the blocks and
AdamW for the rest: embedding, head, routers and norms (Moonlight, arXiv 2502.16982, section 2.2).
"""

from typing import Any

import torch
from torch import nn

from kiban.training.muon import Muon

BETAS = (0.9, 0.95)
EPS = 1e-8


# The embedding's learning rate over the run's, under Muon. A row is read by few tokens of a batch, and moves too little
# at a rate that suits orthogonal matrices: 10 is better than 1 by 0.1 nats/token (docs/diary.md).
EMBEDDING_SCALE = 10.0


def optimisers(model: nn.Module, name: str, learning_rate: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """`name`: adamw or muon. Weights decay in matrices alone: not in norms, nor in the input embedding. `scale` of a
    group: what the run's learning rate is multiplied with."""
    matrices: list[nn.Parameter] = []
    joined: list[nn.Parameter] = []  # gate above up, in one tensor
    decayed: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    embedding: list[nn.Parameter] = []
    for path, parameter in model.named_parameters():
        if path.startswith("embed_tokens"):
            embedding.append(parameter)
        elif parameter.dim() == 1:
            norms.append(parameter)
        elif name == "adamw" or path.startswith("lm_head") or path.endswith("mlp.gate.weight"):
            decayed.append(parameter)
        else:
            (joined if path.endswith("gate_up_proj") else matrices).append(parameter)
    scale = EMBEDDING_SCALE if name == "muon" else 1.0
    groups = [
        {"params": decayed, "weight_decay": weight_decay, "scale": 1.0},
        {"params": norms, "weight_decay": 0.0, "scale": 1.0},
        {"params": embedding, "weight_decay": 0.0, "scale": scale},
    ]
    adamw = torch.optim.AdamW(_by_mesh(groups), lr=learning_rate, betas=BETAS, eps=EPS, fused=True)
    if name == "adamw":
        return [adamw]
    stacks: list[dict[str, Any]] = [{"params": matrices}, {"params": joined, "joined": 2}]
    return [Muon([group for group in stacks if group["params"]], learning_rate, weight_decay), adamw]


def _by_mesh(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parameters that are sharded over different meshes apart: fused steps take those of one."""
    split: list[dict[str, Any]] = []
    for group in groups:
        by_mesh: dict[Any, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_mesh.setdefault(getattr(parameter, "device_mesh", None), []).append(parameter)
        split += [group | {"params": parameters} for parameters in by_mesh.values()] or [group]
    return split
