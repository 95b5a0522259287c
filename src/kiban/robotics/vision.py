"""The vision tower: pictures and a sentence in, a token per head out that says where it looked and what it saw.

Shapes: B batch, H heads, C channels, P places of the picture, W width, N tokens of the sentence.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EDGES = 24  # channels of the first convolution


class VisionTower(nn.Module):
    """Pictures [B, 3, height, width] of any size and the sentence [B, N, W] -> tokens [B, H, W].

    Each head is a soft arg-max over the picture (as in "deep spatial autoencoders", Finn et al. 2016) whose query comes
    from the sentence (the first `named_heads`) or is learned (the rest). Queries and keys have length 1, and the
    softmax begins sharp: an object covers some twenty of a thousand places, which a flat softmax never finds.
    """

    def __init__(self, width: int, channels: int, blocks: int, sentence: int, named_heads: int, free_heads: int):
        """`blocks` are convolutions after the first; `sentence` counts the numbers of all the sentence's tokens."""
        super().__init__()
        self.edges = nn.Conv2d(3, EDGES, 5, stride=2, padding=2)
        self.parts = nn.Conv2d(EDGES + 3, channels, 3, padding=1)  # the colours themselves go with the edges
        self.blocks = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(blocks - 1))
        self.mix = nn.Conv2d(channels, channels, 1)
        self.key = nn.Linear(channels, channels)
        self.named_query = nn.Linear(sentence, named_heads * channels)
        self.free_query = nn.Parameter(torch.randn(free_heads, channels))
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(16.0)))
        self.token = nn.Linear(channels + 2, width)
        self.head = nn.Parameter(torch.zeros(named_heads + free_heads, width))

    def seen(self, image_B3hw: Tensor) -> Tensor:
        """The picture's features [B, C, height, width], each side a half of the picture's, or a quarter with blocks."""
        x = torch.cat([F.silu(self.edges(image_B3hw)), F.avg_pool2d(image_B3hw, 2)], dim=1)
        x = F.silu(self.parts(x))
        for index, block in enumerate(self.blocks):
            x = F.avg_pool2d(x, 2) if index == 0 else x
            x = x + F.silu(block(x))
        return F.silu(self.mix(x))

    def forward(self, image_B3hw: Tensor, sentence_BNW: Tensor) -> Tensor:
        seen_BChw = self.seen(image_B3hw)
        places_P2 = places(*seen_BChw.shape[2:])
        seen_BPC = seen_BChw.flatten(2).transpose(1, 2)
        channels = seen_BPC.shape[-1]
        named_BHC = self.named_query(sentence_BNW.flatten(1)).unflatten(1, (-1, channels))
        query_BHC = torch.cat([named_BHC, self.free_query.expand(len(named_BHC), -1, -1)], dim=1)
        scores_BHP = F.normalize(query_BHC, dim=-1) @ F.normalize(self.key(seen_BPC), dim=-1).transpose(1, 2)
        weights_BHP = (scores_BHP * self.log_sharpness.exp()).softmax(dim=-1)
        return self.token(torch.cat([weights_BHP @ places_P2, weights_BHP @ seen_BPC], dim=-1)) + self.head


@cache
@torch.inference_mode(False)  # training may need what acting has made
def places(height: int, width: int) -> Tensor:
    """The places of a picture's features, x and y from -4 to 4, [height * width, 2]."""
    y, x = torch.meshgrid(torch.linspace(-4, 4, height), torch.linspace(-4, 4, width), indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)
