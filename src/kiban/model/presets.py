"""One dial: the width. A preset is a name for a width; every other number of a model follows from it by the rules in
`of_width`, at all widths between the presets too.

At 7168 the rules give the shape of Kimi K2's published configuration (61 layers of 64 heads and of 384 experts of
2048) with the vocabulary of this project; towards small widths they are bent only by what products of matrices like.
"""

import math

from kiban.artifacts.errors import KibanError
from kiban.model.config import ModelConfig

PRESETS = {"nano": 256, "tiny": 384, "small": 768, "base": 2048, "large": 4608, "trillion": 7168}

# From here on DeepSeek-V3's head sizes and latents (arXiv 2412.19437, section 4.2), which no narrow model could feed.
FULL_WIDTH = 2048
# Below it no more than MOST_EXPERTS, so that a model fits one machine of eight GPUs, where a token's experts are near;
# from it on a model is spread over many anyway, and sparsity is what makes it better at equal cost (arXiv 2507.20534).
SPARSE_WIDTH = 6144
MOST_EXPERTS = 128


def preset(name: str, vocab_size: int | None = None) -> ModelConfig:
    """The configuration of a preset, or of a width between them or below (`"192"`), with another vocabulary where one
    is given.

    Raises:
        KibanError: if there is no such preset.
    """
    if name.isdecimal():
        return of_width(int(name), vocab_size)
    if name not in PRESETS:
        raise KibanError(f"preset '{name}': there is no such preset; use one of {', '.join(PRESETS)}")
    return of_width(PRESETS[name], vocab_size)


def of_width(width: int, vocab_size: int | None = None) -> ModelConfig:
    """The model of a width, which is a multiple of 128, or 192.

    - layers: a 64th of the width up to ten; beyond, five more than a 128th (K2: 56 + 5). The ratio of width to depth
      stays between 64 and 118, where shape matters little (Kaplan et al., arXiv 2001.08361, section 3);
    - heads: a 64th of the width, of 48; from FULL_WIDTH on a 112th in eights, of 128, for tensor parallelism;
    - experts (DeepSeekMoE, arXiv 2401.06066): 3/56 of the width in eights; each 0.28 of the width wide, in 128s; a
      token goes to a 96th of the width of them in twos, at most eight, and to the shared one. Before them one dense
      layer that costs a token the same;
    - context: 512 at width 256, doubled whenever the width doubles, up to 8192; vocabulary: 16 times that, since it
      grows with the model (arXiv 2407.13623).

    Raises:
        KibanError: if there is no model of that width.
    """
    if width != 192 and (width % 128 or width < 128):
        raise KibanError(f"a model's width must be a multiple of 128, or 192; {width} is not")
    full = width >= FULL_WIDTH
    experts = 8 * _nearest(3 * width, 8 * 56)
    expert_width = max(128, 128 * _nearest(28 * width, 128 * 100))
    chosen = max(2, min(8, 2 * (width // 192)))
    context = min(8192, 512 * 2 ** round(math.log2(width / 256)))
    return ModelConfig(
        vocab_size=vocab_size or 16 * context,
        hidden_size=width,
        num_hidden_layers=min(width // 64, 5 + width // 128),
        first_k_dense_replace=1,
        intermediate_size=expert_width * (chosen + 1),
        num_attention_heads=8 * _nearest(width, 8 * 112) if full else width // 64,
        q_lora_rank=1536 if width >= SPARSE_WIDTH else None,
        kv_lora_rank=512 if full else width // 2,
        qk_nope_head_dim=128 if full else 32,
        qk_rope_head_dim=64 if full else 16,
        v_head_dim=128 if full else 48,
        n_routed_experts=experts if width >= SPARSE_WIDTH else min(experts, MOST_EXPERTS),
        num_experts_per_tok=chosen,
        moe_intermediate_size=expert_width,
        max_position_embeddings=context,
        initializer_range=0.02 if not full else 0.006,
    )


def _nearest(numerator: int, denominator: int) -> int:
    """The whole number nearest to a fraction; of two, the larger."""
    return (2 * numerator + denominator) // (2 * denominator)
