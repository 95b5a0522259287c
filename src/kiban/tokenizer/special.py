"""Special tokens: the ids below 64. Bytes follow at 64, merges at 320."""

NAMED = ("<|bos|>", "<|eos|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
NUM_SPECIAL = 64
FIRST_MERGE = NUM_SPECIAL + 256

# The rest is kept for images, audio and actions, so that a trained vocabulary need not grow later.
SPECIAL: dict[str, int] = {name: i for i, name in enumerate(NAMED)}
SPECIAL.update({f"<|reserved_{i}|>": i for i in range(len(NAMED), NUM_SPECIAL)})

BOS, EOS, PAD, SYSTEM, USER, ASSISTANT, END = range(len(NAMED))

ROLES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}

# The same format as `Tokenizer.chat_tokens`, for engines that read tokenizer_config.json.
CHAT_TEMPLATE = (
    "<|bos|>{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
