"""One dial: `preset`. Each names seven numbers; every other one follows by the rules in `preset()`, at all sizes.

The numbers grow together: width and depth as in Kaplan et al. (arXiv 2001.08361, section 3: shape matters little
between width/depth 30 and 120), experts finer and more numerous as in DeepSeekMoE (arXiv 2401.06066), the vocabulary
with the model (arXiv 2407.13623). `trillion` has the shape of Kimi K2's published configuration but for its vocabulary.
"""

import math
from dataclasses import dataclass

from kiban.artifacts.errors import KibanError
from kiban.model.config import ModelConfig


@dataclass(frozen=True)
class Dial:
    depth: int
    width: int
    heads: int
    experts: int
    chosen: int  # experts a token, beside the shared one
    expert: int  # the width of an expert: 3/8 of the model's (a half in nano, 2/7 in Kimi K2), rounded for the matmuls
    context: int

    @property
    def vocabulary(self) -> int:
        """Entries: the power of two nearest to 32 x width, 131,072 at most. An embedding then holds what 32 width^2
        matrices would, a steady share of the layers; beyond the most, entries are too rare to be learnt."""
        return min(131_072, 2 ** round(math.log2(32 * self.width)))


PRESETS = {
    "nano": Dial(depth=4, width=256, heads=4, experts=16, chosen=2, expert=128, context=512),
    "tiny": Dial(depth=6, width=384, heads=6, experts=24, chosen=4, expert=128, context=1024),
    "small": Dial(depth=12, width=768, heads=12, experts=48, chosen=6, expert=192, context=2048),
    "base": Dial(depth=24, width=2048, heads=16, experts=64, chosen=4, expert=768, context=4096),
    "large": Dial(depth=40, width=4096, heads=32, experts=128, chosen=9, expert=1536, context=8192),
    "trillion": Dial(depth=61, width=7168, heads=64, experts=384, chosen=8, expert=2048, context=8192),
}


def preset(name: str, vocab_size: int | None = None) -> ModelConfig:
    """The configuration of a preset, with another vocabulary where one is given.

    Raises:
        KibanError: if there is no such preset.
    """
    if name not in PRESETS:
        raise KibanError(f"preset '{name}': there is no such preset; use one of {', '.join(PRESETS)}")
    dial = PRESETS[name]
    full = dial.width >= 2048  # DeepSeek-V3's head sizes and latents; half of nothing fits a narrow model
    return ModelConfig(
        vocab_size=vocab_size or dial.vocabulary,
        hidden_size=dial.width,
        num_hidden_layers=dial.depth,
        first_k_dense_replace=1,
        # The dense layer costs a token what an MoE layer costs it.
        intermediate_size=dial.expert * (dial.chosen + 1),
        num_attention_heads=dial.heads,
        q_lora_rank=1536 if dial.width >= 7168 else None,
        kv_lora_rank=512 if full else dial.width // 2,
        qk_nope_head_dim=128 if full else 32,
        qk_rope_head_dim=64 if full else 16,
        v_head_dim=128 if full else 48,
        n_routed_experts=dial.experts,
        num_experts_per_tok=dial.chosen,
        moe_intermediate_size=dial.expert,
        max_position_embeddings=dial.context,
        initializer_range=0.02 if not full else 0.006,
    )
