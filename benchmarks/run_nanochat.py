"""Contestant: the dense GPT of nanochat at depth 4 with its optimiser, schedules and scaling rules, from a checkout
that `job["variant"]["checkout"]` names; in an environment of its own.

What is not ours to choose follows `scripts/base_train.py`: the learning rate scales with the root of the batch, the
weight decay with batch and horizon, momentum and decay move through the run. Two things are the experiment's: the
batch, the same for all contestants, and a factor on all learning rates.
"""

import math
import os
import sys
import time

import numpy as np
import torch
from bits_per_character import bits_per_character
from peer_loop import answer, job

job = job()
variant = job["variant"]
os.environ["NANOCHAT_DTYPE"] = variant["dtype"]
sys.path.insert(0, variant["checkout"])
import nanochat.gpt  # noqa: E402

RATIO = 12  # tokens a parameter: what its rules take as the horizon of the reference model
REFERENCE_BATCH = 2**19
WARMUP, WARMDOWN, FLOOR = 40, 0.65, 0.05
DECAY, EMBEDDING, UNEMBEDDING, MATRIX, SCALAR = 0.28, 0.3, 0.008, 0.02, 0.5


def built(depth: int) -> nanochat.gpt.GPT:
    width = -(-depth * 64 // 128) * 128
    config = nanochat.gpt.GPTConfig(
        sequence_len=job["length"],
        vocab_size=job["vocabulary"],
        n_layer=depth,
        n_head=width // 128,
        n_kv_head=width // 128,
        n_embd=width,
        window_pattern="L",  # what it advises where attention is not its own kernel
    )
    with torch.device("meta"):
        return nanochat.gpt.GPT(config)


def scaling_parameters(model: nanochat.gpt.GPT) -> int:
    counts = model.num_scaling_params()
    return counts["transformer_matrices"] + counts["lm_head"]


batches = np.load(job["batches"], mmap_mode="r")
steps = len(batches)
batch_tokens = batches.shape[1] * job["length"]
horizon = batch_tokens * steps
torch.manual_seed(job["seed"])
model = built(4)
reference = RATIO * scaling_parameters(built(12))
model.to_empty(device="cpu")
model.init_weights()
rate = job["factor"] * (batch_tokens / REFERENCE_BATCH) ** 0.5
decay = DECAY * (batch_tokens / REFERENCE_BATCH) ** 0.5 * reference / horizon
optimiser = model.setup_optimizer(
    unembedding_lr=UNEMBEDDING * rate,
    embedding_lr=EMBEDDING * rate,
    scalar_lr=SCALAR * rate,
    matrix_lr=MATRIX * rate,
    weight_decay=decay,
)
compiled = torch.compile(model, dynamic=False) if variant["compile"] else model
warmdown = round(WARMDOWN * steps)
losses, seconds = [], []
for step in range(steps):
    began = time.perf_counter()
    tokens_BX = torch.from_numpy(batches[step].astype(np.int64))
    loss = compiled(tokens_BX[:, :-1].contiguous(), tokens_BX[:, 1:].contiguous())
    loss.backward()
    left = min(1.0, (steps - step) / warmdown)
    factor = (step + 1) / WARMUP if step < WARMUP else left + (1 - left) * FLOOR
    if step < 400:
        momentum = 0.85 + 0.12 * step / 400
    else:
        momentum = 0.97 * left + 0.90 * (1 - left)
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * factor
        if group["kind"] == "muon":
            group["momentum"] = momentum
            group["weight_decay"] = decay * 0.5 * (1 + math.cos(math.pi * step / steps))
    optimiser.step()
    model.zero_grad(set_to_none=True)
    losses.append(loss.item())
    seconds.append(time.perf_counter() - began)
model.eval()
answer(
    job,
    losses=losses,
    seconds=seconds,
    bits_per_character={part: bits_per_character(model, path) for part, path in job["windows"].items()},
    parameters=model.num_scaling_params()["total"],
)
