"""Which parameters are descended how. AdamW (arXiv 1711.05101) for all, or Muon for the matrices inside the blocks and
AdamW for the rest: embedding, head, routers and norms (Moonlight, arXiv 2502.16982, section 2.2).
"""

from typing import Any

import torch
from torch import nn

from kiban.training.muon import Muon

BETAS = (0.9, 0.95)
EPS = 1e-8


# Learning rates relative to the run's, under Muon.
SCALE = {"embed_tokens": 1.0, "lm_head": 1.0, "router": 1.0, "norm": 1.0}


def optimisers(model: nn.Module, name: str, learning_rate: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """`name`: adamw or muon. Weights decay in matrices alone: not in norms, nor in the input embedding."""
    matrices: list[nn.Parameter] = []
    joined: list[nn.Parameter] = []  # gate above up, in one tensor
    rest: dict[str, list[nn.Parameter]] = {"embed_tokens": [], "lm_head": [], "router": [], "norm": [], "matrix": []}
    for path, parameter in model.named_parameters():
        if path.startswith("embed_tokens"):
            rest["embed_tokens"].append(parameter)
        elif parameter.dim() == 1:
            rest["norm"].append(parameter)
        elif path.startswith("lm_head"):
            rest["lm_head"].append(parameter)
        elif path.endswith("mlp.gate.weight"):
            rest["router"].append(parameter)
        elif name == "adamw":
            rest["matrix"].append(parameter)
        else:
            (joined if path.endswith("gate_up_proj") else matrices).append(parameter)
    groups = [
        {
            "params": parameters,
            "weight_decay": 0.0 if kind in ("embed_tokens", "norm") else weight_decay,
            "scale": SCALE[kind] if name == "muon" else 1.0,
        }
        for kind, parameters in rest.items()
        if parameters
    ]
    adamw = torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, eps=EPS, fused=True)
    if name == "adamw":
        return [adamw]
    stacks: list[dict[str, Any]] = [{"params": matrices}, {"params": joined, "joined": 2}]
    return [Muon([group for group in stacks if group["params"]], learning_rate, weight_decay), adamw]
