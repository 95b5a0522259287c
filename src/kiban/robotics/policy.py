"""The policy: pictures, proprioception and a Japanese sentence in, a chunk of actions out, by flow matching.

The sentence comes as hidden states of the frozen language model (`language.py`). It queries the pictures: each head of
the vision tower looks for what its query asks and answers with where that is. A small transformer over the chunk's
actions, its norms adapted to the flow's time, attends to these answers.

Flow: t = 0 is noise, t = 1 the action, x_t = (1 - t) noise + t action (Lipman et al. 2023; the reverse of openpi's
code). The expert estimates the action a from x_t, which is the velocity's other name, v = (a - x_t) / (1 - t), and what
a small network learns soonest where demonstrations hardly disagree.

Shapes: B batch, T tokens of the sentence, F features of a token, W width, H heads of a tower, C channels, P pixels,
    K chunk, A numbers of an action, S numbers of the state, N conditioning tokens.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn


class CameraShape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    height: int
    width: int


class PolicyConfig(BaseModel):
    """The network's sizes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cameras: tuple[CameraShape, ...]
    state: int
    action: int
    language: int  # features of a token
    chunk: int = 8
    width: int = 96
    layers: int = 3
    attention_heads: int = 4
    channels: int = 32
    named_heads: int = 8  # of each tower: look for what the sentence names
    free_heads: int = 8  # look for the same thing always
    sentence_tokens: int = 4


class SentenceEncoder(nn.Module):
    """Hidden states of a sentence's tokens [B, T, F] -> a few tokens [B, sentence_tokens, W] that say what is asked."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.language)
        self.score = nn.Linear(config.language, config.sentence_tokens)
        self.value = nn.Linear(config.language, config.width)

    def forward(self, text_BTF: Tensor, present_BT: Tensor) -> Tensor:
        text_BTF = self.norm(text_BTF)
        scores_BTN = self.score(text_BTF).masked_fill(~present_BT[..., None], -torch.inf)
        return scores_BTN.softmax(dim=1).transpose(1, 2) @ self.value(text_BTF)


class Attention(nn.Module):
    """Multi-head attention of queries [B, Q, W] over context [B, N, W]; `present` [B, N] masks padding."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, query_BQW: Tensor, context_BNW: Tensor, present_BN: Tensor | None = None) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        key, value = self.key_value(context_BNW).chunk(2, dim=-1)
        mask = None if present_BN is None else present_BN[:, None, None, :]
        x = F.scaled_dot_product_attention(split(self.query(query_BQW)), split(key), split(value), attn_mask=mask)
        return self.out(x.transpose(1, 2).flatten(2))


class VisionTower(nn.Module):
    """Pictures [B, 3, height, width] and the sentence -> a token per head [B, H, W]: where it looked and what it saw.

    Each head is a soft arg-max over the picture (as in "deep spatial autoencoders", Finn et al. 2016) whose query comes
    from the sentence (`named_heads`) or is learned (`free_heads`). Queries and keys have length 1, and the softmax
    begins sharp: an object covers some twenty of a thousand places, which a flat softmax never finds.
    """

    places_P2: Tensor

    def __init__(self, config: PolicyConfig, camera: CameraShape) -> None:
        super().__init__()
        channels = config.channels
        self.edges = nn.Conv2d(3, 24, 5, stride=2, padding=2)
        self.parts = nn.Conv2d(24 + 3, channels, 3, padding=1)  # the colours themselves go with the edges
        self.mix = nn.Conv2d(channels, channels, 1)
        self.key = nn.Linear(channels, channels)
        self.named_query = nn.Linear(config.sentence_tokens * config.width, config.named_heads * channels)
        self.free_query = nn.Parameter(torch.randn(config.free_heads, channels))
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(16.0)))
        self.token = nn.Linear(channels + 2, config.width)
        self.head = nn.Parameter(torch.zeros(config.named_heads + config.free_heads, config.width))
        y, x = torch.meshgrid(
            torch.linspace(-4, 4, camera.height // 2), torch.linspace(-4, 4, camera.width // 2), indexing="ij"
        )
        self.register_buffer("places_P2", torch.stack([x, y], dim=-1).reshape(-1, 2), persistent=False)

    def forward(self, image_B3hw: Tensor, sentence_BNW: Tensor) -> Tensor:
        seen = torch.cat([F.silu(self.edges(image_B3hw)), F.avg_pool2d(image_B3hw, 2)], dim=1)
        seen_BPC = F.silu(self.mix(F.silu(self.parts(seen)))).flatten(2).transpose(1, 2)
        channels = seen_BPC.shape[-1]
        named_BHC = self.named_query(sentence_BNW.flatten(1)).unflatten(1, (-1, channels))
        query_BHC = torch.cat([named_BHC, self.free_query.expand(len(named_BHC), -1, -1)], dim=1)
        scores_BHP = F.normalize(query_BHC, dim=-1) @ F.normalize(self.key(seen_BPC), dim=-1).transpose(1, 2)
        weights_BHP = (scores_BHP * self.log_sharpness.exp()).softmax(dim=-1)
        return self.token(torch.cat([weights_BHP @ self.places_P2, weights_BHP @ seen_BPC], dim=-1)) + self.head


class ExpertLayer(nn.Module):
    """Self-attention over the chunk, attention to the conditioning tokens, MLP; norms adapted to the time, gates 0."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        width = config.width
        self.among = Attention(width, config.attention_heads)
        self.to_tokens = Attention(width, config.attention_heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        self.adapt = nn.Linear(width, 9 * width)
        nn.init.zeros_(self.adapt.weight)
        nn.init.zeros_(self.adapt.bias)

    def forward(self, x_BKW: Tensor, time_BW: Tensor, tokens_BNW: Tensor) -> Tensor:
        adapted = self.adapt(F.silu(time_BW))[:, None].chunk(9, dim=-1)

        def normed(x: Tensor, index: int) -> Tensor:
            shift, scale = adapted[3 * index], adapted[3 * index + 1]
            return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift

        def gate(index: int) -> Tensor:
            return 1 + adapted[3 * index + 2]

        h = normed(x_BKW, 0)
        x_BKW = x_BKW + gate(0) * self.among(h, h)
        x_BKW = x_BKW + gate(1) * self.to_tokens(normed(x_BKW, 1), tokens_BNW)
        return x_BKW + gate(2) * self.mlp(normed(x_BKW, 2))


class Policy(nn.Module):
    """See the head of the file. Everything in and out is normalised (`normaliser.py`)."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.sentence = SentenceEncoder(config)
        self.towers = nn.ModuleDict({camera.name: VisionTower(config, camera) for camera in config.cameras})
        self.state = nn.Sequential(nn.Linear(config.state, width), nn.SiLU(), nn.Linear(width, width))
        tokens = len(config.cameras) * (config.named_heads + config.free_heads) + 1 + config.sentence_tokens
        self.summary = nn.Sequential(nn.Linear(tokens * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2 * width))
        self.destination = nn.Linear(width, 3)
        self.action_in = nn.Linear(config.action, width)
        self.place = nn.Parameter(0.02 * torch.randn(config.chunk, width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(ExpertLayer(config) for _ in range(config.layers))
        self.action_out = nn.Linear(width, config.action)

    def condition(self, images: Mapping[str, Tensor], state_BS: Tensor, text_BTF: Tensor, present_BT: Tensor) -> Tensor:
        """What the expert attends to [B, N, W]. `images` by camera, [B, 3, height, width].

        The last token is read by `destination` too.
        """
        sentence_BNW = self.sentence(text_BTF, present_BT)
        seen = [tower(images[name], sentence_BNW) for name, tower in self.towers.items()]
        tokens_BNW = torch.cat([*seen, self.state(state_BS)[:, None], sentence_BNW], dim=1)
        return torch.cat([tokens_BNW, self.summary(tokens_BNW.flatten(1)).unflatten(1, (2, -1))], dim=1)

    def estimate(self, noisy_BKA: Tensor, time_B: Tensor, tokens_BNW: Tensor) -> Tensor:
        """The actions [B, K, A] that `noisy` came from."""
        time_BW = self.time(_waves(time_B, self.config.width))
        x_BKW = self.action_in(noisy_BKA) + self.place
        for layer in self.layers:
            x_BKW = layer(x_BKW, time_BW, tokens_BNW)
        return self.action_out(F.layer_norm(x_BKW, x_BKW.shape[-1:]))

    def loss(
        self, tokens_BNW: Tensor, actions_BKA: Tensor, valid_BK: Tensor, noise_BKA: Tensor, time_B: Tensor
    ) -> Tensor:
        """Mean squared error of the estimated actions: the velocity's, weighted by (1 - t)^2, so finite at t = 1."""
        t = time_B[:, None, None]
        estimate = self.estimate((1 - t) * noise_BKA + t * actions_BKA, time_B, tokens_BNW)
        errors_BK = (estimate - actions_BKA).square().mean(dim=-1)
        return (errors_BK * valid_BK).sum() / valid_BK.sum()

    def destination_loss(self, tokens_BNW: Tensor, destination_B3: Tensor) -> Tensor:
        """Mean squared error of where the tool will be when the task is done, known in hindsight.

        It ties the sentence to a place from the first steps of training on, long before actions alone do.
        """
        return (self.destination(tokens_BNW[:, -1]) - destination_B3).square().mean()

    @torch.inference_mode()
    def sample(self, tokens_BNW: Tensor, noise_BKA: Tensor, steps: int) -> Tensor:
        """Actions [B, K, A] by `steps` Euler steps from noise."""
        x_BKA = noise_BKA
        for step in range(steps):
            t = step / steps
            time_B = torch.full((len(x_BKA),), t)
            velocity = (self.estimate(x_BKA, time_B, tokens_BNW) - x_BKA) / (1 - t)
            x_BKA = x_BKA + velocity / steps
        return x_BKA


def _waves(time_B: Tensor, width: int) -> Tensor:
    """Sines and cosines of the time with periods from 4e-3 to 4 (as in pi0, Black et al. 2024)."""
    periods = torch.exp(torch.linspace(math.log(4e-3), math.log(4.0), width // 2, device=time_B.device))
    angles = 2 * math.pi * time_B[:, None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
