"""Sampling token by token with the latent cache."""

from collections.abc import Collection, Iterator

import torch

from kiban.artifacts.errors import KibanError
from kiban.model.transformer import Transformer


@torch.inference_mode()
def generate(
    model: Transformer,
    tokens: list[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop_ids: Collection[int] = (),
) -> Iterator[tuple[int, float]]:
    """Yields (token, its log-probability in nats at temperature 1) until a stop id, which it yields too.

    Temperature 0 takes the likeliest token. Nucleus sampling (arXiv 1904.09751) with `top_p` < 1.

    Raises:
        KibanError: if the prompt is empty, or it and the new tokens exceed the model's context.
    """
    limit = model.config.max_position_embeddings
    if not tokens:
        raise KibanError("the prompt holds no token; give at least one")
    if len(tokens) + max_new_tokens > limit:
        raise KibanError(
            f"prompt of {len(tokens)} and {max_new_tokens} new tokens exceed the context of {limit}; ask less"
        )
    model.eval()
    device = model.lm_head.weight.device
    generator = torch.Generator().manual_seed(seed)
    cache = model.new_cache()
    fed = tokens
    for _ in range(max_new_tokens):
        hidden = model(torch.tensor([fed], device=device), cache)
        logits_V = model.logits(hidden[:, -1])[0].float().cpu()
        log_probs = logits_V.log_softmax(-1)
        token = _choose(logits_V, temperature, top_p, generator)
        yield token, float(log_probs[token])
        if token in stop_ids:
            return
        fed = [token]


def _choose(logits_V: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    if temperature == 0.0:
        return int(logits_V.argmax())
    probabilities = (logits_V / temperature).softmax(-1)
    if top_p < 1.0:
        ordered, ids = probabilities.sort(descending=True)
        keep = ordered.cumsum(0) - ordered < top_p  # the first one always stays
        probabilities = torch.zeros_like(probabilities).scatter_(0, ids[keep], ordered[keep])
    return int(torch.multinomial(probabilities, 1, generator=generator))
