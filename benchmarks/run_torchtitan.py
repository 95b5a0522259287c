"""Contestant: torchtitan's deepseek_v3, in an environment of its own. `titan_model.py` says what had to be changed."""

import json
from importlib.metadata import version
from pathlib import Path

import titan_model
import torch
from peer_loop import answer, job, precision, train
from safetensors.torch import load_file
from torch import Tensor
from torchtitan.components.loss import ChunkedLossWrapper, cross_entropy_loss

job = job()
dtype, autocast = precision(job)
folder = Path(job["weights"])
hf = json.loads((folder / "config.json").read_text())
model = titan_model.build(hf, job["length"])
tensors = {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}
titan_model.load(model, hf, job["length"], tensors)
for parameter in model.parameters():  # not the buffers: the rotary table is complex
    parameter.data = parameter.data.to(dtype)
titan_model.use_experts(model, job["variant"]["experts"])
for layer in model.layers.values() if job["variant"].get("compile") else ():
    layer.compile()
chunked = ChunkedLossWrapper.Config().build()
chunked.set_lm_head(model.lm_head)
model._skip_lm_head = job["variant"]["loss"] == "chunked"  # as torchtitan's trainer has it


def loss_of(tokens_BL: Tensor, targets_BL: Tensor) -> Tensor:
    count = torch.tensor(targets_BL.numel())
    with autocast():
        if model._skip_lm_head:
            return chunked(model(tokens_BL), targets_BL, count)[0]
        return cross_entropy_loss(model(tokens_BL), targets_BL) / count


losses, seconds = train(job, model, "tok_embeddings.weight", loss_of)
answer(job, losses=losses, seconds=seconds, versions={"torchtitan": version("torchtitan"), "torch": torch.__version__})
