"""The policy: pictures, proprioception and a Japanese sentence in, a chunk of actions out, by flow matching.

The sentence comes as hidden states of the language model (`language.py`). It queries the pictures: each head of the
vision tower looks for what its query asks and answers with where that is (`vision.py`). These tokens, the state's and
the sentence's are the prefix; the action expert attends to its keys and values in every layer (`action_expert.py`).

Flow: t = 0 is noise, t = 1 the action, x_t = (1 - t) noise + t action (Lipman et al. 2023; the reverse of openpi's
code). The expert estimates the action a from x_t, which is the velocity's other name, v = (a - x_t) / (1 - t), and what
a small network learns soonest where demonstrations hardly disagree.

Of each robot there are its own small projections of state and action; everything else serves all of them.

Shapes: B batch, T tokens of the sentence, F features of a token, W width, K chunk, A numbers of an action, S numbers of
    the state, N tokens of the prefix, D numbers of a destination.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kiban.robotics.action_expert import ExpertLayer, Prefix, PrefixLayer, waves
from kiban.robotics.policy_config import PolicyConfig, RobotShape
from kiban.robotics.senses import Senses, key

DRAWS = 2  # of noise and time for each frame of a batch: the pictures cost more than the expert
DESTINATION_WEIGHT = 0.5


class RobotParts(nn.Module):
    """What is one robot's own beside its state's encoder."""

    def __init__(self, config: PolicyConfig, robot: RobotShape) -> None:
        super().__init__()
        width = config.width
        tokens = Senses.count(config, robot)
        self.summary = nn.Sequential(nn.Linear(tokens * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2 * width))
        self.destination = nn.Linear(width, len(robot.destination))
        self.action_in = nn.Linear(robot.action, width)
        self.action_out = nn.Linear(width, robot.action)


class Policy(nn.Module):
    """See the head of the file. Everything in and out is normalised (`normaliser.py`)."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        width, heads = config.width, config.attention_heads
        self.senses = Senses(config)
        self.robots = nn.ModuleDict({key(robot.name): RobotParts(config, robot) for robot in config.robots})
        self.place = nn.Parameter(0.02 * torch.randn(config.chunk, width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.prefix = nn.ModuleList(PrefixLayer(width, heads, i == config.layers - 1) for i in range(config.layers))
        self.layers = nn.ModuleList(ExpertLayer(width, heads) for _ in range(config.layers))

    def _parts(self, robot: str) -> RobotParts:
        parts = self.robots[key(robot)]
        assert isinstance(parts, RobotParts)
        return parts

    def condition(
        self, robot: str, images: Mapping[str, Tensor], state_BS: Tensor, text_BTF: Tensor, present_BT: Tensor
    ) -> Prefix:
        """The prefix that the expert attends to. `images` by camera, [B, 3, height, width]."""
        tokens_BNW = self.senses(robot, images, state_BS, text_BTF, present_BT)
        summary_B2W = self._parts(robot).summary(tokens_BNW.flatten(1)).unflatten(1, (2, -1))
        x_BNW = torch.cat([tokens_BNW, summary_B2W], dim=1)
        cached = []
        for layer in self.prefix:
            x_BNW, keys_values = layer(x_BNW)
            cached.append(keys_values)
        return Prefix(robot, tuple(cached), summary_B2W[:, -1])

    def estimate(self, noisy_BKA: Tensor, time_B: Tensor, prefix: Prefix) -> Tensor:
        """The actions [B, K, A] that `noisy` came from."""
        parts = self._parts(prefix.robot)
        time_BW = self.time(waves(time_B, self.config.width))
        x_BKW = parts.action_in(noisy_BKA) + self.place
        for layer, keys_values in zip(self.layers, prefix.keys_values, strict=True):
            x_BKW = layer(x_BKW, time_BW, keys_values)
        return parts.action_out(F.layer_norm(x_BKW, x_BKW.shape[-1:]))

    def loss(
        self,
        prefix: Prefix,
        actions_BKA: Tensor,
        valid_BK: Tensor,
        destination_BD: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Mean squared error of the estimated actions (the velocity's, weighted by (1 - t)^2, so finite at t = 1), and
        of the destination: where the tools will be when the task is done, known in hindsight. It ties the sentence to a
        place from the first steps of training on, long before actions alone do.
        """
        actions_BKA = actions_BKA.repeat(DRAWS, 1, 1)
        noise_BKA = torch.randn(actions_BKA.shape, generator=generator)
        time_B = torch.rand(len(actions_BKA), generator=generator)
        t = time_B[:, None, None]
        estimate = self.estimate((1 - t) * noise_BKA + t * actions_BKA, time_B, prefix.repeat(DRAWS))
        errors_BK = (estimate - actions_BKA).square().mean(dim=-1)
        weights_BK = valid_BK.repeat(DRAWS, 1)
        destination = self._parts(prefix.robot).destination(prefix.summary_BW)
        missed = (destination - destination_BD).square().mean()
        return (errors_BK * weights_BK).sum() / weights_BK.sum() + DESTINATION_WEIGHT * missed

    def step(self, x_BKA: Tensor, index: int, steps: int, prefix: Prefix) -> Tensor:
        """Euler's step `index` of `steps`: from t = index / steps to (index + 1) / steps."""
        t = index / steps
        velocity = (self.estimate(x_BKA, torch.full((len(x_BKA),), t), prefix) - x_BKA) / (1 - t)
        return x_BKA + velocity / steps

    @torch.inference_mode()
    def sample(self, prefix: Prefix, noise_BKA: Tensor, steps: int) -> Tensor:
        """Actions [B, K, A] by `steps` Euler steps from noise."""
        x_BKA = noise_BKA
        for index in range(steps):
            x_BKA = self.step(x_BKA, index, steps, prefix)
        return x_BKA
