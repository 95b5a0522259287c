"""The transformer's two streams with shared attention: the prefix (what is seen, asked and felt) and the actions.

Each stream has weights of its own. In every layer the prefix attends to itself, and the actions attend to the prefix
and to themselves in one softmax over the keys of both (as in pi0, Black et al. 2024). The prefix never looks at the
actions, so its keys and values are computed once a chunk, whatever the number of Euler steps.

Shapes: B batch, N tokens of the prefix, K chunk, W width, h heads, d numbers of a head.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Prefix:
    """The prefix cache of a batch: of each layer the keys and values [B, h, N, d]; and its summary [B, W]."""

    robot: str
    keys_values: tuple[tuple[Tensor, Tensor], ...]
    summary_BW: Tensor

    def repeat(self, times: int) -> "Prefix":
        """The batch `times` over."""
        cached = tuple((k.repeat(times, 1, 1, 1), v.repeat(times, 1, 1, 1)) for k, v in self.keys_values)
        return Prefix(self.robot, cached, self.summary_BW.repeat(times, 1))


def _split(x_BNW: Tensor, heads: int) -> Tensor:
    return x_BNW.unflatten(-1, (heads, -1)).transpose(1, 2)


def _joined(x_BhNd: Tensor) -> Tensor:
    return x_BhNd.transpose(1, 2).flatten(2)


class PrefixLayer(nn.Module):
    """Keys and values of the prefix tokens [B, N, W], and, except in the last layer, the tokens for the next one."""

    def __init__(self, width: int, heads: int, last: bool) -> None:
        super().__init__()
        self.heads, self.last = heads, last
        self.key_value = nn.Linear(width, 2 * width)
        if not last:
            self.query = nn.Linear(width, width)
            self.out = nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, x_BNW: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h = x_BNW if self.last else F.layer_norm(x_BNW, x_BNW.shape[-1:])
        key, value = (_split(part, self.heads) for part in self.key_value(h).chunk(2, dim=-1))
        if not self.last:
            attended = F.scaled_dot_product_attention(_split(self.query(h), self.heads), key, value)
            x_BNW = x_BNW + self.out(_joined(attended))
            x_BNW = x_BNW + self.mlp(F.layer_norm(x_BNW, x_BNW.shape[-1:]))
        return x_BNW, (key, value)


class ExpertLayer(nn.Module):
    """The actions' side of a layer: shared attention and an MLP; norms and gates adapted to the flow's time."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        self.adapt = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.adapt.weight)
        nn.init.zeros_(self.adapt.bias)

    def forward(self, x_BKW: Tensor, time_BW: Tensor, prefix: tuple[Tensor, Tensor]) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adapt(time_BW)[:, None].chunk(6, dim=-1)
        h = F.layer_norm(x_BKW, x_BKW.shape[-1:]) * (1 + scale_a) + shift_a
        query, key, value = (_split(part, self.heads) for part in self.query_key_value(h).chunk(3, dim=-1))
        keys, values = torch.cat([prefix[0], key], dim=2), torch.cat([prefix[1], value], dim=2)
        x_BKW = x_BKW + (1 + gate_a) * self.out(_joined(F.scaled_dot_product_attention(query, keys, values)))
        h = F.layer_norm(x_BKW, x_BKW.shape[-1:]) * (1 + scale_m) + shift_m
        return x_BKW + (1 + gate_m) * self.mlp(h)


def waves(time_B: Tensor, width: int) -> Tensor:
    """Sines and cosines of the time with periods from 4e-3 to 4 (as in pi0, Black et al. 2024)."""
    periods = torch.exp(torch.linspace(math.log(4e-3), math.log(4.0), width // 2, device=time_B.device))
    angles = 2 * math.pi * time_B[:, None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
