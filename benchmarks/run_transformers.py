"""Contestant: transformers' `DeepseekV3ForCausalLM`, in an environment of its own.

Its experts come in several implementations; `batched_mm` copies an expert's weights for each token (gigabytes here) and
does not compete.
"""

import torch
import transformers
from bits_per_character import bits_per_character
from peer_loop import answer, job, precision, train
from torch import Tensor

job = job()
dtype, autocast = precision(job)
implementations = {
    "attn_implementation": job["variant"]["attention"],
    "experts_implementation": job["variant"]["experts"],
}
if job.get("own_start"):  # its own random weights
    torch.manual_seed(job["seed"])
    config = transformers.AutoConfig.from_pretrained(job["weights"])
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, **implementations)
else:
    model = transformers.DeepseekV3ForCausalLM.from_pretrained(job["weights"], dtype=dtype, **implementations)
model.config.use_cache = False
forward = torch.compile(model) if job["variant"].get("compile") else model


def loss_of(tokens_BL: Tensor, targets_BL: Tensor) -> Tensor:
    with autocast():
        logits = forward(input_ids=tokens_BL, use_cache=False).logits
        return model.loss_function(
            logits=logits, labels=None, vocab_size=model.config.vocab_size, shift_labels=targets_BL
        )


losses, seconds = train(job, model, "model.embed_tokens.weight", loss_of)
model.eval()


def logits_of(tokens_BL: Tensor) -> Tensor:
    with autocast():
        return model(input_ids=tokens_BL, use_cache=False).logits


answer(
    job,
    losses=losses,
    seconds=seconds,
    bits_per_character={part: bits_per_character(logits_of, path) for part, path in job.get("windows", {}).items()},
    versions={"transformers": transformers.__version__, "torch": torch.__version__},
)
