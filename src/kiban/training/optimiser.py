"""AdamW (arXiv 1711.05101), with decay on matrices alone: not on norms, nor on the input embedding."""

import torch
from torch import nn

BETAS = (0.9, 0.95)
EPS = 1e-8


def adamw(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (decayed if parameter.dim() > 1 and not name.startswith("embed_tokens") else others).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, eps=EPS, fused=True)
