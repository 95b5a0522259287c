"""What the model writes: continuations of a dozen openings in several registers. The same seeds every time."""

import torch

from kiban.model.generate import generate
from kiban.model.transformer import Transformer
from kiban.tokenizer.bpe import Tokenizer

NEW_TOKENS = 64
TEMPERATURE = 0.8
TOP_P = 0.95

# (register, opening)
PROMPTS = (
    ("literary", "春になると、"),
    ("plain", "この町の市場では、"),
    ("polite", "お電話ありがとうございます。"),
    ("business mail", "いつもお世話になっております。"),
    ("formal letter", "平素は格別のご高配を賜り、"),
    ("work instruction", "作業を始める前に、"),
    ("work instruction", "手順1"),
    ("maintenance report", "点検の結果、"),
    ("safety notice", "注意："),
    ("robot instruction", "赤い立方体を"),
    ("robot instruction", "恐れ入りますが、青い円柱を"),
    ("minutes", "会議では、"),
)


def samples(model: Transformer, tokenizer: Tokenizer) -> list[dict[str, str | float | int]]:
    """For each opening a drawn continuation and a greedy one (temperature 0). On a CPU in float32: in bfloat16 its
    matrix library makes code anew for every length that it meets, which took sixteen times as long in `nano`."""
    computes = model.dtype
    if model.lm_head.weight.is_cpu:
        model.dtype = torch.float32
    try:
        return _samples(model, tokenizer)
    finally:
        model.dtype = computes


def _samples(model: Transformer, tokenizer: Tokenizer) -> list[dict[str, str | float | int]]:
    made: list[dict[str, str | float | int]] = []
    room = model.config.max_position_embeddings
    for seed, (register, prompt) in enumerate(PROMPTS):
        ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
        for temperature in (TEMPERATURE, 0.0):
            drawn = generate(
                model, ids, min(NEW_TOKENS, room - len(ids)), temperature, TOP_P, seed, stop_ids=(tokenizer.eos_id,)
            )
            text = tokenizer.decode(token for token, _ in drawn if token != tokenizer.eos_id)
            made.append(
                {"register": register, "prompt": prompt, "text": text, "temperature": temperature, "seed": seed}
            )
    return made
