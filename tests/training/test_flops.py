import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kiban.model.presets import preset
from kiban.model.transformer import Transformer
from kiban.training.flops import flops_per_token, matmul_rate


@pytest.mark.parametrize("vocabulary", [512, 4096])
def test_the_closed_form_is_what_a_step_computes(vocabulary: int) -> None:
    """Counted by PyTorch over the forward pass. It counts attention in full, ours is causal: half of it."""
    config = preset("nano", vocabulary)
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    model.eval()
    length = 128
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.logits(model(torch.randint(0, vocabulary, (2, length))))
    qk = config.qk_nope_head_dim + config.qk_rope_head_dim
    heads = config.num_attention_heads * config.num_hidden_layers
    other_half = heads * (qk + config.v_head_dim) * length
    forward = counter.get_total_flops() / (2 * length)
    # The norms' weights are among the parameters, and in no matmul.
    assert flops_per_token(config, length) / 3 + other_half == pytest.approx(forward, rel=5e-3)


def test_the_matmul_rate_is_one() -> None:
    assert 1e8 < matmul_rate(torch.device("cpu"), torch.float32, seconds=0.05) < 1e14
