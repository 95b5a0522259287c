"""torchtitan's deepseek_v3 at the shape of a Hugging Face config.json, for one device.

torchtitan 0.3 offers language models flex attention and varlen, neither of which trains on a CPU; its own module around
scaled_dot_product_attention takes their place. It computes its experts in bfloat16 whatever the model's dtype;
`FloatExperts` lifts that, so that float32 can be compared at all.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.common.embedding import Embedding
from torchtitan.models.common.linear import Linear
from torchtitan.models.common.moe import GroupedExperts
from torchtitan.models.common.nn_modules import RMSNorm
from torchtitan.models.common.rope import ComplexRoPE
from torchtitan.models.deepseek_v3 import build_mla_moe_layers
from torchtitan.models.deepseek_v3.model import DeepSeekV3Model
from torchtitan.models.deepseek_v3.state_dict_adapter import DeepSeekV3StateDictAdapter


def model_config(hf: dict[str, Any], length: int) -> DeepSeekV3Model.Config:
    keep: dict[str, Any] = {
        "weight": lambda weight: weight
    }  # initialised by nothing: weights are loaded, or drawn later
    layers = build_mla_moe_layers(
        n_layers=hf["num_hidden_layers"],
        n_dense_layers=hf["first_k_dense_replace"],
        dim=hf["hidden_size"],
        n_heads=hf["num_attention_heads"],
        q_lora_rank=hf["q_lora_rank"] or 0,
        kv_lora_rank=hf["kv_lora_rank"],
        qk_nope_head_dim=hf["qk_nope_head_dim"],
        qk_rope_head_dim=hf["qk_rope_head_dim"],
        v_head_dim=hf["v_head_dim"],
        mscale=1.0,
        dense_hidden_dim=hf["intermediate_size"],
        moe_hidden_dim=hf["moe_intermediate_size"],
        num_experts=hf["n_routed_experts"],
        num_shared_experts=hf["n_shared_experts"],
        router_top_k=hf["num_experts_per_tok"],
        router_score_func="sigmoid",
        router_route_scale=hf["routed_scaling_factor"],
        router_route_norm=hf["norm_topk_prob"],
        attn_backend="flex",
        moe_comm_backend="standard",
        non_blocking_capacity_factor=None,
        linear_init=keep,
        norm_init=keep,
        depth_init=lambda _: keep,
        depth_experts_init=lambda _: keep,
        rope=ComplexRoPE.Config(dim=hf["qk_rope_head_dim"], max_seq_len=length, theta=hf["rope_theta"]),
    )
    for layer in layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
    vocabulary, dim = hf["vocab_size"], hf["hidden_size"]
    return DeepSeekV3Model.Config(
        vocab_size=vocabulary,
        dim=dim,
        tok_embeddings=Embedding.Config(num_embeddings=vocabulary, embedding_dim=dim, param_init=keep),
        norm=RMSNorm.Config(normalized_shape=dim, param_init=keep),
        lm_head=Linear.Config(in_features=dim, out_features=vocabulary, param_init=keep),
        layers=layers,
        mtp_layers=[],
    )


def build(hf: dict[str, Any], length: int) -> DeepSeekV3Model:
    """The routing bias stays at zero: what moves it is a hook of torchtitan's optimiser, which is not installed."""
    model = model_config(hf, length).build()
    for module in model.modules():
        if isinstance(module, nn.RMSNorm):
            module.eps = hf["rms_norm_eps"]
    return model


def load(model: DeepSeekV3Model, hf: dict[str, Any], length: int, tensors: dict[str, Tensor]) -> None:
    """By torchtitan's own adapter from the Hugging Face layout."""
    adapter = DeepSeekV3StateDictAdapter(model_config(hf, length), None)
    model.load_state_dict(adapter.from_hf(tensors), strict=True)


class FloatExperts(GroupedExperts):
    """The experts in the dtype of the model, by `grouped_mm` or one after another as torchtitan 0.2 had it."""

    loop = False

    def forward(self, x_RD: Tensor, num_tokens_per_expert_E: Tensor) -> Tensor:
        w1, w2, w3 = (w.to(x_RD.dtype) for w in (self.w1_EFD, self.w2_EDF, self.w3_EFD))
        if self.loop:
            parts = zip(x_RD.split(num_tokens_per_expert_E.tolist()), w1, w2, w3, strict=True)
            return torch.cat([(F.silu(x @ a.T) * (x @ c.T)) @ b.T for x, a, b, c in parts]).to(x_RD.dtype)
        offsets_E = num_tokens_per_expert_E.cumsum(0, dtype=torch.int32)

        def grouped(x: Tensor, w: Tensor) -> Tensor:
            return torch._grouped_mm(x, w.transpose(-2, -1), offs=offsets_E)

        return grouped(F.silu(grouped(x_RD, w1)) * grouped(x_RD, w3), w2)


def use_experts(model: nn.Module, name: str) -> None:
    """`name`: stock (bfloat16), grouped_mm or loop (both in the dtype of the model)."""
    for module in model.modules():
        if isinstance(module, GroupedExperts) and name != "stock":
            module.__class__ = FloatExperts
            module.loop = name == "loop"
