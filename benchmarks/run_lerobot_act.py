"""lerobot's ACT, one training step after another, in lerobot's environment: see policy.py, which calls this.

torchvision has no build for the PyTorch that is measured here, and ACT asks it for a ResNet-18 without its pretrained
weights' help in a training step's time. So a ResNet-18 of ours stands in for it: the same layers (He et al. 2016), of
`width` channels in the first one (64 in the original), and the batch norm that lerobot freezes.

Reads a line a request, {"steps": n}, answers {"seconds": s}; first says {"parameters": n}.
"""

import json
import sys
import time
import types
from importlib.machinery import ModuleSpec

import torch
from torch import Tensor, nn


class FrozenBatchNorm2d(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


class Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([norm(channels), norm(channels)])
        self.past = (
            nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), norm(channels))
            if stride > 1 or channels_in != channels
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norms[1](self.second(self.norms[0](self.first(x)).relu()))
        return (inner + self.past(x)).relu()


class ResNet(nn.Module):
    def __init__(self, width: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = norm(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        for i in range(4):
            blocks = (
                Block(sizes[i], sizes[i + 1], 1 if i == 0 else 2, norm),
                Block(sizes[i + 1], sizes[i + 1], 1, norm),
            )
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(8 * width, 1)


class LayerGetter(nn.Module):
    """torchvision's IntermediateLayerGetter for the last layer."""

    def __init__(self, model: ResNet, return_layers: dict[str, str]) -> None:
        super().__init__()
        [(last, self.name)] = return_layers.items()
        names = ["conv1", "bn1", "maxpool", "layer1", "layer2", "layer3", "layer4"]
        self.layers = nn.ModuleList(getattr(model, name) for name in names[: names.index(last) + 1])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for index, layer in enumerate(self.layers):
            x = layer(x)
            x = x.relu() if index == 1 else x
        return {self.name: x}


def stand_in_for_torchvision(width: int) -> None:
    def resnet18(weights: None, replace_stride_with_dilation: object, norm_layer: type[nn.Module]) -> ResNet:
        return ResNet(width, norm_layer)

    contents = {
        "torchvision": {"__version__": "0"},
        "torchvision.models": {"resnet18": resnet18},
        "torchvision.models._utils": {"IntermediateLayerGetter": LayerGetter},
        "torchvision.ops": {},
        "torchvision.ops.misc": {"FrozenBatchNorm2d": FrozenBatchNorm2d},
        "torchvision.transforms": {},
        "torchvision.transforms.v2": {"Transform": nn.Module},
        "torchvision.transforms.v2.functional": {},
        "torchvision.transforms.functional": {},
    }
    for name, values in contents.items():
        module = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        module.__dict__.update(values)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def main(sizes: dict[str, int], cameras: dict[str, list[int]], state: int, action: int, batch: int) -> None:
    stand_in_for_torchvision(sizes.pop("resnet_width"))
    # lerobot.policies imports every policy, and with them transformers and diffusers: ACT's package is taken alone.
    import lerobot

    policies = types.ModuleType("lerobot.policies")
    policies.__spec__ = ModuleSpec("lerobot.policies", None, is_package=True)
    policies.__path__ = [f"{lerobot.__path__[0]}/policies"]
    sys.modules["lerobot.policies"] = policies
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    torch.manual_seed(0)
    inputs = {"observation.state": PolicyFeature(FeatureType.STATE, (state,))}
    inputs |= {f"observation.images.{n}": PolicyFeature(FeatureType.VISUAL, (3, *s)) for n, s in cameras.items()}
    chunk = sizes.pop("chunk")
    config = ACTConfig(
        input_features=inputs,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (action,))},
        chunk_size=chunk,
        n_action_steps=chunk,
        pretrained_backbone_weights=None,
        device="cpu",
        **sizes,
    )
    policy = ACTPolicy(config)
    policy.train()
    optimiser = torch.optim.AdamW(policy.get_optim_params(), lr=1e-5, weight_decay=1e-4)
    parameters = sum(p.numel() for p in policy.parameters())
    data = {
        "observation.state": torch.randn(batch, state),
        "action": torch.randn(batch, chunk, action),
        "action_is_pad": torch.zeros(batch, chunk, dtype=torch.bool),
        **{f"observation.images.{n}": torch.randn(batch, 3, *s) for n, s in cameras.items()},
    }
    print(json.dumps({"parameters": parameters}), flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        for _ in range(json.loads(line)["steps"]):
            loss, _ = policy(dict(data))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
            optimiser.step()
            optimiser.zero_grad()
        print(json.dumps({"seconds": time.perf_counter() - begin}), flush=True)


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    torch.set_num_threads(request.pop("threads"))
    main(**request)
