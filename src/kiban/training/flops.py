"""Floating-point operations of training, in closed form, and the matmul rate they are held against."""

import time

import torch

from kiban.model.config import ModelConfig


def flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    """6 x active parameters (head included, input embedding not) + causal attention, forward and backward.

    Attention: a token attends to L/2 others on average; scores and values take 2 x (qk + v) operations for each and
    head; the backward pass costs twice the forward pass. Recompute and MTP are not counted.
    """
    qk = config.qk_nope_head_dim + config.qk_rope_head_dim
    attention = 3 * sequence_length * config.num_attention_heads * (qk + config.v_head_dim) * config.num_hidden_layers
    return 6.0 * config.parameters().active + attention


def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """FLOP/s of a large square matrix product here and now: the best of several."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        before = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - before)
    return 2.0 * size**3 / best
