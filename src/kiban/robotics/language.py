"""What the trained language model makes of an instruction: its hidden states, the policy's reading of it.

The model is frozen, or learns on with the policy. Three depths are read (the embedding, the middle layer, the last
one), since a small model keeps what a word is near the bottom and what a sentence means further up; each is normalised,
so that none drowns the others.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from kiban.artifacts.errors import KibanError
from kiban.model import hf
from kiban.model.transformer import Transformer
from kiban.tokenizer.bpe import Tokenizer

DEPTHS = 3
LONGEST = 128  # tokens
MOST_KEPT = 4096  # sentences: more than any suite has, and what a server can hold for ever


class Reader:
    """The language model in `folder` (the Hugging Face layout with a tokenizer), reading instructions.

    A sentence's features are computed once and kept, those of the last MOST_KEPT sentences.
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer) -> None:
        self.model, self._tokenizer = model.eval(), tokenizer
        self._known: dict[str, Tensor] = {}

    @classmethod
    def load(cls, folder: Path) -> "Reader":
        return cls(hf.load(folder), Tokenizer.load(folder))

    @property
    def num_features(self) -> int:
        return DEPTHS * self.model.config.hidden_size

    def save(self, folder: Path) -> None:
        """Writes the model as it is now, and its tokenizer, as `load` reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        hf.save(self.model, folder)
        self._tokenizer.save(folder)

    def tokens(self, sentence: str) -> list[int]:
        """BOS and the sentence's tokens.

        Raises:
            KibanError: if the sentence is empty, or longer than LONGEST tokens.
        """
        tokens = self._tokenizer.encode(sentence)
        if not 0 < len(tokens) <= LONGEST:
            raise KibanError(f"instruction '{sentence[:40]}': {len(tokens)} tokens; give 1 to {LONGEST}")
        return [self._tokenizer.bos_id, *tokens]

    def read(self, sentence: str) -> Tensor:
        """Features of the sentence's tokens, float32 [tokens, num_features].

        Raises:
            KibanError: as `tokens`.
        """
        if sentence not in self._known:
            if len(self._known) >= MOST_KEPT:
                self._known.pop(next(iter(self._known)))
            with torch.no_grad():
                self._known[sentence] = _hidden_states(self.model, torch.tensor([self.tokens(sentence)]))[0, 1:]
        return self._known[sentence]

    def read_all(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Padded features [sentences, longest, num_features], and which of them are tokens [sentences, longest]."""
        features = [self.read(sentence) for sentence in sentences]
        present_BT = _present([len(feature) for feature in features])
        text_BTF = torch.zeros(*present_BT.shape, self.num_features)
        for row, feature in enumerate(features):
            text_BTF[row, : len(feature)] = feature
        return text_BTF, present_BT

    def study(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """As `read_all`, with gradients to the model's weights, and nothing kept."""
        tokens = [self.tokens(sentence) for sentence in sentences]
        present_BT = _present([len(row) - 1 for row in tokens])
        padded = [row + [0] * (present_BT.shape[1] + 1 - len(row)) for row in tokens]  # causal: padding changes nothing
        return _hidden_states(self.model, torch.tensor(padded))[:, 1:], present_BT


def _present(lengths: list[int]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def _hidden_states(model: Transformer, tokens_BT: Tensor) -> Tensor:
    depths = [model.embed_tokens, model.layers[(len(model.layers) - 1) // 2], model.layers[-1]]
    caught: list[Tensor] = []
    hooks = [module.register_forward_hook(lambda _module, _inputs, output: caught.append(output)) for module in depths]
    try:
        model(tokens_BT)
    finally:
        for hook in hooks:
            hook.remove()
    assert len(caught) == DEPTHS
    return torch.cat([F.layer_norm(states.float(), states.shape[-1:]) for states in caught], dim=-1)
