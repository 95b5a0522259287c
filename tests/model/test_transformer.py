"""The architecture's parts against plain versions of themselves. `test_hf.py` holds the whole against transformers'."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from kiban.artifacts.errors import KibanError
from kiban.model.attention import Attention
from kiban.model.causal import BLOCK, causal_attention
from kiban.model.config import ModelConfig, Yarn
from kiban.model.generate import generate
from kiban.model.grouped import grouped_linear
from kiban.model.layers import RMSNorm
from kiban.model.loss import CHUNK_LOGITS, linear_cross_entropy
from kiban.model.moe import MoE, balance_loss
from kiban.model.presets import PRESETS, SPARSE_WIDTH, of_width, preset
from kiban.model.rope import rope_tables, rotate
from kiban.model.transformer import Transformer

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "compressed queries": {"q_lora_rank": 24},
    "groups": {"n_group": 4, "topk_group": 2},
    "no dense layer": {"first_k_dense_replace": 0},
    "all dense": {"first_k_dense_replace": 3},
    "two shared experts": {"n_shared_experts": 2},
    "mtp": {"num_nextn_predict_layers": 1},
    "yarn": {"rope_scaling": Yarn(factor=4.0, original_max_position_embeddings=32)},
    "yarn, other magnitudes": {
        "rope_scaling": Yarn(
            factor=8.0, original_max_position_embeddings=16, beta_fast=4.0, mscale=0.7, mscale_all_dim=0.4
        )
    },
}


def small(**changes: Any) -> ModelConfig:
    numbers: dict[str, Any] = {
        "vocab_size": 97,
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "intermediate_size": 80,
        "num_attention_heads": 3,
        "kv_lora_rank": 20,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 32,
        "max_position_embeddings": 128,
        "initializer_range": 0.15,  # large, so that a mistake anywhere shows in the logits
    }
    return ModelConfig(**(numbers | changes))


def build(**changes: Any) -> Transformer:
    model = Transformer(small(**changes))
    model.init_weights(torch.Generator().manual_seed(1))
    for module in model.modules():
        if isinstance(module, MoE):
            module.gate.e_score_correction_bias.normal_(std=0.2, generator=torch.Generator().manual_seed(2))
    return model.eval()


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, 97, shape, generator=torch.Generator().manual_seed(3))


def test_generation_with_the_latent_cache_is_generation_without() -> None:
    model = build()
    prompt = tokens(1, 9)[0].tolist()
    drawn = list(generate(model, prompt, 12))
    for token, log_probability in drawn:
        with torch.no_grad():
            log_probs = model.logits(model(torch.tensor([prompt])))[0, -1].log_softmax(-1)
        assert token == int(log_probs.argmax())
        assert log_probability == pytest.approx(float(log_probs[token]), abs=1e-4)
        prompt.append(token)


def test_sampling_follows_the_distribution_and_the_seed() -> None:
    model = build()
    prompt = tokens(1, 5)[0].tolist()
    once, twice = (list(generate(model, prompt, 8, temperature=1.0, top_p=0.9, seed=4)) for _ in range(2))
    assert once == twice
    firsts = [next(generate(model, prompt, 1, temperature=1.0, top_p=0.5, seed=seed))[0] for seed in range(25)]
    probabilities = model.logits(model(torch.tensor([prompt])))[0, -1].softmax(-1)
    ordered = probabilities.sort(descending=True)
    nucleus = ordered.indices[: int((ordered.values.cumsum(0) < 0.5).sum()) + 1].tolist()
    assert set(firsts) <= set(nucleus) and len(set(firsts)) > 1


def test_generation_stops_at_a_stop_id_and_refuses_what_does_not_fit() -> None:
    model = build()
    greedy = [token for token, _ in generate(model, [5, 6], 6)]
    assert [token for token, _ in generate(model, [5, 6], 6, stop_ids={greedy[2]})] == greedy[
        : greedy.index(greedy[2]) + 1
    ]
    with pytest.raises(KibanError, match="exceed the context of 128"):
        next(generate(model, [1] * 120, 9))
    with pytest.raises(KibanError, match="no token"):
        next(generate(model, [], 9))


@pytest.mark.parametrize("counts", [[2, 3, 1], [6, 0, 0], [0, 0, 6], [0, 6, 0]])
def test_grouped_linear_is_one_linear_an_expert(counts: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, generator=generator, requires_grad=True)
    w = torch.randn(3, 4, 5, generator=generator, requires_grad=True)
    out = grouped_linear(x, w, torch.tensor(counts).cumsum(0).int())
    owners = [expert for expert, count in enumerate(counts) for _ in range(count)]
    plain = torch.stack([w[expert] @ row for expert, row in zip(owners, x, strict=True)])
    assert torch.allclose(out, plain, atol=1e-6)
    ours = torch.autograd.grad(out.square().sum(), (x, w))
    theirs = torch.autograd.grad(plain.square().sum(), (x, w))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_runs_on_fake_tensors(dtype: torch.dtype) -> None:
    """So that a dry run needs no memory: nothing in the way of the data asks for its values."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        model = Transformer(preset("nano")).train()
        model.dtype = dtype
        tokens_BX = torch.zeros(2, 513, dtype=torch.int64)
        loss, _ = model.loss(tokens_BX[:, :-1], tokens_BX[:, 1:], 1e-3)
        loss.backward()
    assert loss.shape == () and all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    whole = flops_of(model) * 2 * 512
    assert whole == pytest.approx(counter.get_total_flops(), rel=0.02)


def flops_of(model: Transformer) -> float:
    """A token's products, forward and backward; of the blocks on attention's diagonal, half is computed in vain."""
    c = model.config
    qk = c.qk_nope_head_dim + c.qk_rope_head_dim
    keys = 512 / 2 + BLOCK[model.dtype] / 2
    return 6 * c.parameters().active + 6 * keys * c.num_attention_heads * (qk + c.v_head_dim) * c.num_hidden_layers


def test_bfloat16_is_near_float32() -> None:
    losses, gradients = [], []
    x_BX = tokens(4, 65)
    for dtype in (torch.float32, torch.bfloat16):
        model = build(num_nextn_predict_layers=1).train()
        model.dtype = dtype
        loss, _ = model.loss(x_BX[:, :-1], x_BX[:, 1:])
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=5e-3)
    assert F.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.99


@pytest.mark.parametrize(("length", "heads"), [(1, 2), (63, 1), (64, 2), (65, 2), (200, 3)])
def test_blocked_attention_is_attention(length: int, heads: int) -> None:
    generator = torch.Generator().manual_seed(length)
    q, k = (torch.randn(2, heads, length, 12, generator=generator, requires_grad=True) for _ in range(2))
    v = torch.randn(2, heads, length, 20, generator=generator, requires_grad=True)
    ours = causal_attention(q, k, v, 0.3)
    plain = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
    torch.testing.assert_close(ours, plain)
    seed = torch.randn(ours.shape, generator=generator)
    for a, b in zip(
        torch.autograd.grad(ours, (q, k, v), seed), torch.autograd.grad(plain, (q, k, v), seed), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [5, 64, 200])
def test_a_token_sees_its_own_document_alone(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    q, k = (torch.randn(2, 3, length, 12, generator=generator, requires_grad=True) for _ in range(2))
    v = torch.randn(2, 3, length, 20, generator=generator, requires_grad=True)
    document_BL = (torch.rand(2, length, generator=generator) < 0.05).cumsum(1)
    same = document_BL[:, None, :, None] == document_BL[:, None, None, :]
    mask = same & torch.ones(length, length, dtype=torch.bool).tril()
    plain = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)
    seed = torch.randn(plain.shape, generator=generator)
    ours = causal_attention(q, k, v, 0.3, document_BL)
    torch.testing.assert_close(ours, plain)
    for a, b in zip(
        torch.autograd.grad(ours, (q, k, v), seed), torch.autograd.grad(plain, (q, k, v), seed), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(causal_attention(q, k, v, 0.3, document_BL), plain)


def test_a_packed_document_is_what_it_is_alone() -> None:
    model = build()
    first, second = tokens(1, 9), tokens(1, 14)
    packed_BL, document_BL = torch.cat([first, second], 1), torch.tensor([[0] * 9 + [1] * 14])
    whole = model._body(packed_BL, None, document_BL)
    torch.testing.assert_close(whole[:, 9:], model._body(second), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model._body(packed_BL)[:, 9:], whole[:, 9:], rtol=1e-3)


@pytest.mark.parametrize("shape", [(7, 16), (2, 3, 48)])
def test_the_norm_and_its_gradients_are_those_of_rms_norm(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    norm = RMSNorm(shape[-1], 1e-6)
    torch.nn.init.normal_(norm.weight, generator=generator)
    x = torch.randn(shape, generator=generator, requires_grad=True)
    ours, plain = norm(x), F.rms_norm(x, shape[-1:], norm.weight, 1e-6)
    torch.testing.assert_close(ours, plain)
    seed, wanted = torch.randn(shape, generator=generator), (x, norm.weight)
    for a, b in zip(torch.autograd.grad(ours, wanted, seed), torch.autograd.grad(plain, wanted, seed), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_moe_layer_is_a_weighted_sum_over_chosen_experts() -> None:
    layer = build().layers[1].mlp
    assert isinstance(layer, MoE)
    x = torch.randn(1, 11, 48, generator=torch.Generator().manual_seed(5))
    weights, chosen, _ = layer.gate(x[0])
    rows = []
    for token in range(11):
        row = layer.shared_experts(x[0, token])
        for weight, expert in zip(weights[token], chosen[token], strict=True):
            gate, up = (layer.experts.gate_up_proj[expert] @ x[0, token]).chunk(2)
            row = row + weight * (layer.experts.down_proj[expert] @ (F.silu(gate) * up))
        rows.append(row)
    assert torch.allclose(layer(x)[0], torch.stack(rows), atol=1e-5)


def test_the_bias_moves_towards_balance() -> None:
    model = build(routed_scaling_factor=1.0).train()
    layer = model.layers[1].mlp
    assert isinstance(layer, MoE)
    layer.gate.e_score_correction_bias.copy_(torch.tensor([3.0, 3.0, 3.0, 0, 0, 0, 0, 0]))
    x = tokens(4, 60)
    spreads = []
    for _ in range(80):
        model(x)
        load = model.update_routing_bias(0.1)[0].float()
        spreads.append(float(load.std() / load.mean()))
    assert spreads[0] > 1.0 and spreads[-1] < 0.35
    assert not layer.load_E.any()


def test_the_balance_loss_is_one_when_experts_are_used_evenly() -> None:
    even_BLE, chosen_BLK = torch.full((2, 4, 8), 0.5), torch.arange(8).view(1, 4, 2).expand(2, 4, 2)
    assert balance_loss(even_BLE, chosen_BLK).item() == pytest.approx(1.0)
    score_BLE = torch.zeros(1, 4, 8)
    score_BLE[..., :2] = 0.5  # every token likes, and goes to, the same two of eight
    assert balance_loss(score_BLE, torch.tensor([0, 1]).expand(1, 4, 2)).item() == pytest.approx(4.0)


def test_the_balance_loss_evens_out_the_scores() -> None:
    model = build().train()
    optimiser = torch.optim.SGD([m.gate.weight for m in model.modules() if isinstance(m, MoE)], lr=1.0)
    x_BX = tokens(4, 33)
    before = model.loss(x_BX[:, :-1], x_BX[:, 1:], 1.0)[1]["balance_loss"].item()
    for _ in range(20):
        loss, stats = model.loss(x_BX[:, :-1], x_BX[:, 1:], 1.0)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert stats["balance_loss"].item() < before
    assert set(model.loss(x_BX[:, :-1], x_BX[:, 1:])[1]) == {"loss"}


@pytest.mark.parametrize("variant", ["plain", "compressed queries", "yarn"])
def test_qk_clip_bounds_the_largest_logit_of_each_head(variant: str) -> None:
    attention = build(**VARIANTS[variant]).layers[0].self_attn.train()
    assert isinstance(attention, Attention)
    attention.watched = True
    config = small(**VARIANTS[variant])
    x_BLD, tables = torch.randn(2, 300, 48, generator=torch.Generator().manual_seed(5)), torch.arange(300)
    cos, sin = rope_tables(tables, config)
    attention(x_BLD, cos, sin)
    assert attention.max_logit_H is not None
    most_H = attention.max_logit_H.clone()
    if variant == "plain":  # the same by the definition
        latent, key = attention.kv_a_proj_with_mqa(x_BLD).split([20, 8], dim=-1)
        k_nope = attention.kv_b_proj(attention.kv_a_layernorm(latent)).view(2, 300, 3, 28)[..., :12]
        q_BLHK = attention.q_proj(x_BLD).view(2, 300, 3, 20)
        rotary = torch.einsum(
            "blhr,bsr->bhls", rotate(q_BLHK[..., 12:].transpose(1, 2), cos, sin).transpose(1, 2), rotate(key, cos, sin)
        )
        logits = (torch.einsum("blhn,bshn->bhls", q_BLHK[..., :12], k_nope) + rotary) * 20**-0.5
        causal = torch.ones(300, 300).tril().bool()
        torch.testing.assert_close(most_H, logits.where(causal, -torch.inf).amax((0, 2, 3)).detach())
    bound = most_H.sort().values[1].item()
    kept = attention.q_proj.weight.clone() if variant != "compressed queries" else attention.q_b_proj.weight.clone()
    assert torch.equal(attention.clip_logits(bound), most_H)
    attention(x_BLD, cos, sin)
    assert attention.max_logit_H is not None
    torch.testing.assert_close(attention.max_logit_H, most_H.clamp(max=bound), rtol=1e-4, atol=1e-4)
    now = (attention.q_proj if variant != "compressed queries" else attention.q_b_proj).weight
    rows = (now != kept).any(1).view(3, -1).any(1)
    assert rows.tolist() == (most_H > bound).tolist()  # the other heads are as they were


@pytest.mark.parametrize("count", [1, 100, 107])
def test_the_chunked_loss_and_its_gradients_are_those_of_cross_entropy(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHUNK_LOGITS, "cpu", 31 * 50)
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(count, 8, generator=generator, requires_grad=True)
    w = torch.randn(31, 8, generator=generator, requires_grad=True)
    target = torch.randint(0, 31, (count,), generator=generator)
    ours, plain = linear_cross_entropy(h, w, target), F.cross_entropy(h @ w.T, target)
    assert torch.allclose(ours, plain, rtol=1e-5)
    for a, b in zip(torch.autograd.grad(2 * ours, (h, w)), torch.autograd.grad(2 * plain, (h, w)), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(linear_cross_entropy(h, w, target), plain, rtol=1e-5)


def test_mtp_predicts_the_token_after_the_next() -> None:
    model = build(num_nextn_predict_layers=1).train()
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    x_BX = torch.arange(33)[None] % 7 + torch.arange(4)[:, None]  # counts up by one: learnable at once
    for _ in range(60):
        loss, stats = model.loss(x_BX[:, :-1], x_BX[:, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert stats["loss"] < 0.5 and stats["mtp_loss"] < 0.7


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_sizes_that_are_promised(name: str) -> None:
    config = preset(name)
    with torch.device("meta"):
        model = Transformer(config)
    parameters = config.parameters()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters.total
    low, high, active_low, active_high = SIZES[name]
    assert low <= parameters.total <= high
    assert active_low <= parameters.active <= active_high


def test_the_documented_presets_are_those_of_the_rule() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    rows = {
        line.split("`")[1]: [cell.strip() for cell in line.split("|")[2:8]]
        for line in page.splitlines()
        if line.startswith("| `") and line.split("`")[1] in PRESETS
    }
    assert list(rows) == list(PRESETS)
    for name, cells in rows.items():
        c = preset(name)
        experts = f"{c.n_routed_experts} of {c.moe_intermediate_size:,}, {c.num_experts_per_tok}"
        numbers = [f"{n:,}" for n in (c.hidden_size, c.num_hidden_layers, c.num_attention_heads)]
        assert cells == [*numbers, experts, f"{c.max_position_embeddings:,}", f"{c.vocab_size:,}"]


SIZES = {
    "nano": (0, 12e6, 2e6, 4e6),
    "tiny": (30e6, 40e6, 0, 40e6),
    "small": (270e6, 330e6, 0, 330e6),
    "base": (7.5e9, 8.5e9, 0.9e9, 1.1e9),
    "large": (95e9, 105e9, 9.5e9, 10.5e9),
    "trillion": (1.0e12, 1.1e12, 31e9, 33e9),
}


def test_the_rule_holds_at_every_width() -> None:
    widths = range(256, 8192 + 1, 128)
    configs = [of_width(width) for width in widths]
    for smaller, larger in itertools.pairwise(configs):
        assert smaller.parameters().total < larger.parameters().total
        sparser = larger.hidden_size == SPARSE_WIDTH  # there queries are compressed, and a token costs less
        assert sparser or smaller.parameters().active < larger.parameters().active
    for width, config in zip(widths, configs, strict=True):
        assert config.moe_intermediate_size % 128 == config.n_routed_experts % 8 == 0
        assert 0.2 <= config.moe_intermediate_size / width <= 0.5
        assert 62 <= width / config.num_hidden_layers <= 119
    kimi_k2 = {"num_hidden_layers": 61, "num_attention_heads": 64, "n_routed_experts": 384, "num_experts_per_tok": 8}
    kimi_k2 |= {"moe_intermediate_size": 2048, "intermediate_size": 18432, "q_lora_rank": 1536, "kv_lora_rank": 512}
    assert preset("trillion").model_dump() | kimi_k2 == preset("trillion").model_dump()
    assert [preset(w).hidden_size for w in ("128", "192", "256")] == [128, 192, 256]
    for width in (64, 300, 0, -256):
        with pytest.raises(KibanError, match="multiple of 128"):
            of_width(width)


def test_an_unknown_preset_and_impossible_numbers_are_named() -> None:
    with pytest.raises(KibanError, match="use one of nano, tiny"):
        preset("huge")
    with pytest.raises(ValueError, match="no multiple of n_group"):
        small(n_group=3)
