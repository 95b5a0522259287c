"""Contestant: transformers' `DeepseekV3ForCausalLM`, in an environment of its own.

Its experts come in several implementations; `batched_mm` copies an expert's weights for each token (gigabytes here) and
does not compete.
"""

import torch
import transformers
from peer_loop import answer, job, precision, train
from torch import Tensor

job = job()
dtype, autocast = precision(job)
model = transformers.DeepseekV3ForCausalLM.from_pretrained(
    job["weights"],
    dtype=dtype,
    attn_implementation=job["variant"]["attention"],
    experts_implementation=job["variant"]["experts"],
)
model.config.use_cache = False
forward = torch.compile(model) if job["variant"].get("compile") else model


def loss_of(tokens_BL: Tensor, targets_BL: Tensor) -> Tensor:
    with autocast():
        logits = forward(input_ids=tokens_BL, use_cache=False).logits
        return model.loss_function(
            logits=logits, labels=None, vocab_size=model.config.vocab_size, shift_labels=targets_BL
        )


losses, seconds = train(job, model, "model.embed_tokens.weight", loss_of)
answer(
    job,
    losses=losses,
    seconds=seconds,
    versions={"transformers": transformers.__version__, "torch": torch.__version__},
)
