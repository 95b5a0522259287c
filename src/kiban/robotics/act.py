"""ACT as a baseline: a variational autoencoder of action chunks whose decoder looks at the pictures' features.

After Zhao et al. 2023 (arXiv 2304.13705): an encoder sees the chunk and the state and says in a latent `z` of what
style the demonstration is; a transformer over z, the state and every place of the pictures' features is attended to by
one query an action; the loss is the mean absolute error of the actions and KL_WEIGHT times the divergence of z from
the unit Gaussian, and z = 0 when acting. What is not as there: the pictures come through our vision tower's
kind of convolutions, not a pretrained ResNet, norms stand before attention, and the sentence is a token beside z, since
one policy has many tasks.

Shapes: B batch, K chunk, W width, A numbers of an action, N tokens of the context, Z latent.
"""

from collections.abc import Mapping
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kiban.robotics.action_expert import Prefix, waves
from kiban.robotics.policy_config import PolicyConfig
from kiban.robotics.senses import SentenceEncoder, key, state_encoder
from kiban.robotics.vision import EDGES

LATENT = 32
KL_WEIGHT = 10.0
ENCODER_LAYERS = 2
GRID = 8  # places of a picture's features, along its longer side, at the most


class Grid(nn.Module):
    """Pictures [B, 3, height, width] -> a token for each of some 8 x 8 places [B, N, W]."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        channels = config.channels
        self.layers = nn.Sequential(
            nn.Conv2d(3, EDGES, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(EDGES, channels, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.SiLU(),
        )
        self.token = nn.Conv2d(2 * channels, config.width, 1)

    def forward(self, image_B3hw: Tensor) -> Tensor:
        seen = self.layers(image_B3hw)
        seen = F.avg_pool2d(seen, -(-max(seen.shape[2:]) // GRID), ceil_mode=True)
        x_BWhw = self.token(seen)
        return (x_BWhw + _places(*x_BWhw.shape[1:])).flatten(2).transpose(1, 2)


@cache
@torch.inference_mode(False)  # training may need what acting has made
def _places(width: int, height: int, across: int) -> Tensor:
    """Sines and cosines of a picture's places [W, height, across]: half the numbers for y, half for x."""
    y = waves(torch.linspace(0, 1, height), width // 2).T[:, :, None].expand(-1, -1, across)
    x = waves(torch.linspace(0, 1, across), width - width // 2).T[:, None].expand(-1, height, -1)
    return torch.cat([y, x])


def _transformer(config: PolicyConfig, layers: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        config.width, config.attention_heads, 4 * config.width, dropout=0.1, batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


class Act(nn.Module):
    """See the head of the file. Everything in and out is normalised (`normaliser.py`)."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.robots = {robot.name: robot for robot in config.robots}
        self.sentence = SentenceEncoder(config)
        self.ask = nn.Linear(config.sentence_tokens * width, width)
        cameras = dict.fromkeys(camera.name for robot in config.robots for camera in robot.cameras)
        self.eyes = nn.ModuleDict({key(camera): Grid(config) for camera in cameras})
        self.camera = nn.ParameterDict({key(camera): nn.Parameter(torch.zeros(width)) for camera in cameras})
        self.states = nn.ModuleDict({key(r.name): state_encoder(r, width) for r in config.robots})
        self.action_in = nn.ModuleDict({key(r.name): nn.Linear(r.action, width) for r in config.robots})
        self.action_out = nn.ModuleDict({key(r.name): nn.Linear(width, r.action) for r in config.robots})
        self.style = _transformer(config, ENCODER_LAYERS)
        self.style_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.to_latent = nn.Linear(width, 2 * LATENT)
        self.from_latent = nn.Linear(LATENT, width)
        self.context = _transformer(config, config.layers)
        layer = nn.TransformerDecoderLayer(
            width, config.attention_heads, 4 * width, dropout=0.1, batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, 1)  # the original's decoder has seven and uses the first
        self.place = nn.Parameter(0.02 * torch.randn(config.chunk, width))

    def condition(
        self, robot: str, images: Mapping[str, Tensor], state_BS: Tensor, text_BTF: Tensor, present_BT: Tensor
    ) -> Prefix:
        """Tokens of the sentence, the state and the pictures: here the prefix is a single "layer" of them [B, 1, N, W].

        What comes second is the state's token alone, which the style encoder sees.
        """
        asked_BW = self.ask(self.sentence(text_BTF, present_BT).flatten(1))
        state_BW = self.states[key(robot)](state_BS)
        seen = [
            self.eyes[key(camera.name)](images[camera.name]) + self.camera[key(camera.name)]
            for camera in self.robots[robot].cameras
        ]
        tokens_BNW = torch.cat([asked_BW[:, None], state_BW[:, None], *seen], dim=1)
        return Prefix(robot, ((tokens_BNW[:, None], tokens_BNW[:, None]),), state_BW)

    def decode(self, prefix: Prefix, latent_BZ: Tensor) -> Tensor:
        """The chunk [B, K, A] of the style `latent`."""
        tokens_BNW = prefix.keys_values[0][0][:, 0]
        context_BNW = self.context(torch.cat([self.from_latent(latent_BZ)[:, None], tokens_BNW], dim=1))
        queries_BKW = self.place.expand(len(tokens_BNW), -1, -1)
        return self.action_out[key(prefix.robot)](self.decoder(queries_BKW, context_BNW))

    def loss(
        self,
        prefix: Prefix,
        actions_BKA: Tensor,
        valid_BK: Tensor,
        destination_BD: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Mean absolute error plus KL_WEIGHT times the divergence. No destination: ACT has none."""
        inputs_BKW = self.action_in[key(prefix.robot)](actions_BKA) + self.place
        first = torch.cat(
            [self.style_token.expand(len(inputs_BKW), -1, -1), prefix.summary_BW[:, None], inputs_BKW], dim=1
        )
        absent = torch.cat([torch.zeros(len(valid_BK), 2, dtype=torch.bool), ~valid_BK], dim=1)
        mean_BZ, log_variance_BZ = self.to_latent(self.style(first, src_key_padding_mask=absent)[:, 0]).chunk(2, dim=-1)
        noise_BZ = torch.randn(mean_BZ.shape, generator=generator)
        estimate = self.decode(prefix, mean_BZ + (0.5 * log_variance_BZ).exp() * noise_BZ)
        errors_BK = (estimate - actions_BKA).abs().mean(dim=-1)
        divergence = 0.5 * (mean_BZ.square() + log_variance_BZ.exp() - 1 - log_variance_BZ).sum(dim=-1).mean()
        return (errors_BK * valid_BK).sum() / valid_BK.sum() + KL_WEIGHT * divergence

    @torch.inference_mode()
    def sample(self, prefix: Prefix, noise_BKA: Tensor, steps: int) -> Tensor:
        """The chunk [B, K, A] of the mean style. `noise` and `steps` have no effect: ACT has no flow."""
        return self.decode(prefix, torch.zeros(len(noise_BKA), LATENT))
