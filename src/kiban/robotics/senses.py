"""What a policy is given, as tokens: pictures, the sentence, and the state of whichever robot it is.

Shapes: B batch, T tokens of the sentence as read, F features of a token, W width, S numbers of the state, N tokens.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kiban.robotics.policy_config import PolicyConfig, RobotShape
from kiban.robotics.vision import VisionTower


def key(name: str) -> str:
    """A robot's or a camera's name as PyTorch wants a module's."""
    return name.replace(".", "_")


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


def state_encoder(robot: RobotShape, width: int) -> nn.Module:
    """A state [B, S] -> a token [B, W]."""
    return nn.Sequential(nn.Linear(robot.state, width), nn.SiLU(), nn.Linear(width, width))


class Senses(nn.Module):
    """Pictures by camera [B, 3, height, width], a state and a sentence -> tokens [B, N, W]."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.robots = {robot.name: robot for robot in config.robots}
        self.sentence = SentenceEncoder(config)
        sentence = config.sentence_tokens * config.width
        cameras = dict.fromkeys(camera.name for robot in config.robots for camera in robot.cameras)
        sizes = (config.width, config.channels, config.vision_blocks, sentence, config.named_heads, config.free_heads)
        self.towers = nn.ModuleDict({key(camera): VisionTower(*sizes) for camera in cameras})
        self.states = nn.ModuleDict({key(robot.name): state_encoder(robot, config.width) for robot in config.robots})

    @staticmethod
    def count(config: PolicyConfig, robot: RobotShape) -> int:
        """How many tokens there are of `robot`."""
        return len(robot.cameras) * (config.named_heads + config.free_heads) + 1 + config.sentence_tokens

    def forward(
        self, robot: str, images: Mapping[str, Tensor], state_BS: Tensor, text_BTF: Tensor, present_BT: Tensor
    ) -> Tensor:
        sentence_BNW = self.sentence(text_BTF, present_BT)
        cameras = [camera.name for camera in self.robots[robot].cameras]
        seen = [self.towers[key(name)](images[name], sentence_BNW) for name in cameras]
        return torch.cat([*seen, self.states[key(robot)](state_BS)[:, None], sentence_BNW], dim=1)
