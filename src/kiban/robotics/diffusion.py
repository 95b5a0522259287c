"""Diffusion Policy as a baseline: noise is taken from an action chunk step by step by a one-dimensional U-Net.

After Chi et al. 2023 (arXiv 2303.04137), their convolutional variant: TRAIN_STEPS of noise on a squared cosine schedule
(Nichol and Dhariwal 2021), the network estimates the noise, features are modulated by the observation (FiLM); acting by
DDIM (Song et al. 2021) in a few steps. What is not as there: the observation is our senses' tokens (pictures, state and
sentence) of one moment, not a pretrained ResNet's of two.

Shapes: B batch, K chunk, A numbers of an action, W width, N tokens of the senses.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kiban.robotics.action_expert import Prefix, waves
from kiban.robotics.policy_config import PolicyConfig
from kiban.robotics.senses import Senses, key

TRAIN_STEPS = 100
LARGEST_BETA = 0.999
GROUPS = 8


def _signal_share() -> Tensor:
    """How much of the variance is still the action's after each step [TRAIN_STEPS]."""

    def cosine(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    steps = [min(1 - cosine((i + 1) / TRAIN_STEPS) / cosine(i / TRAIN_STEPS), LARGEST_BETA) for i in range(TRAIN_STEPS)]
    return torch.cumprod(1 - torch.tensor(steps), dim=0)


class Block(nn.Module):
    """Two convolutions along the chunk [B, channels, K], modulated in between by `given` [B, W]; residual."""

    def __init__(self, channels_in: int, channels_out: int, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv1d(channels_in, channels_out, 3, padding=1), nn.GroupNorm(GROUPS, channels_out), nn.Mish()
        )
        self.second = nn.Sequential(
            nn.Conv1d(channels_out, channels_out, 3, padding=1), nn.GroupNorm(GROUPS, channels_out), nn.Mish()
        )
        self.modulate = nn.Sequential(nn.Mish(), nn.Linear(width, 2 * channels_out))
        self.past = nn.Conv1d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x_BCK: Tensor, given_BW: Tensor) -> Tensor:
        scale, shift = self.modulate(given_BW)[:, :, None].chunk(2, dim=1)
        return self.second((1 + scale) * self.first(x_BCK) + shift) + self.past(x_BCK)


class DiffusionPolicy(nn.Module):
    """See the head of the file. Everything in and out is normalised (`normaliser.py`)."""

    signal_share: Tensor

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.senses = Senses(config)
        self.observe = nn.ModuleDict(
            {key(r.name): nn.Linear(Senses.count(config, r) * width, 2 * width) for r in config.robots}
        )
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, 2 * width))
        self.action_in = nn.ModuleDict({key(r.name): nn.Conv1d(r.action, width, 1) for r in config.robots})
        self.action_out = nn.ModuleDict({key(r.name): nn.Conv1d(width, r.action, 1) for r in config.robots})
        self.down = Block(width, width, 2 * width)
        self.shorter = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.middle = Block(width, 2 * width, 2 * width)
        self.up = Block(3 * width, width, 2 * width)
        self.register_buffer("signal_share", _signal_share(), persistent=False)

    def condition(
        self, robot: str, images: Mapping[str, Tensor], state_BS: Tensor, text_BTF: Tensor, present_BT: Tensor
    ) -> Prefix:
        """The observation as one vector [B, 2 W]; there are no keys and values to keep."""
        tokens_BNW = self.senses(robot, images, state_BS, text_BTF, present_BT)
        return Prefix(robot, (), self.observe[key(robot)](tokens_BNW.flatten(1)))

    def noise_in(self, noisy_BKA: Tensor, step_B: Tensor, prefix: Prefix) -> Tensor:
        """The noise [B, K, A] that the network finds in `noisy` after `step` steps."""
        given_BW = prefix.summary_BW + self.time(waves(step_B / TRAIN_STEPS, self.config.width))
        x_BCK = self.down(self.action_in[key(prefix.robot)](noisy_BKA.transpose(1, 2)), given_BW)
        below = self.middle(self.shorter(x_BCK), given_BW)
        below = F.interpolate(below, size=x_BCK.shape[-1])
        x_BCK = self.up(torch.cat([below, x_BCK], dim=1), given_BW)
        return self.action_out[key(prefix.robot)](x_BCK).transpose(1, 2)

    def loss(
        self,
        prefix: Prefix,
        actions_BKA: Tensor,
        valid_BK: Tensor,
        destination_BD: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Mean squared error of the noise. No destination: Diffusion Policy has none."""
        noise_BKA = torch.randn(actions_BKA.shape, generator=generator)
        step_B = torch.randint(TRAIN_STEPS, (len(actions_BKA),), generator=generator)
        share = self.signal_share[step_B][:, None, None]
        found = self.noise_in(share.sqrt() * actions_BKA + (1 - share).sqrt() * noise_BKA, step_B, prefix)
        errors_BK = (found - noise_BKA).square().mean(dim=-1)
        return (errors_BK * valid_BK).sum() / valid_BK.sum()

    @torch.inference_mode()
    def sample(self, prefix: Prefix, noise_BKA: Tensor, steps: int) -> Tensor:
        """Actions [B, K, A] by `steps` steps of DDIM from noise."""
        x_BKA = noise_BKA
        times = torch.linspace(TRAIN_STEPS - 1, 0, steps).round().long().tolist()
        for index, time in enumerate(times):
            share = self.signal_share[time]
            noise = self.noise_in(x_BKA, torch.full((len(x_BKA),), time), prefix)
            action = (x_BKA - (1 - share).sqrt() * noise) / share.sqrt()
            action = action.clamp(-5, 5)  # deviations: the first steps divide by next to nothing
            after = self.signal_share[times[index + 1]] if index + 1 < len(times) else torch.ones(())
            x_BKA = after.sqrt() * action + (1 - after).sqrt() * noise
        return x_BKA
