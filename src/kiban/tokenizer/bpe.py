"""A byte-level BPE for Japanese: training, encoding, decoding, and the files that other engines read.

It is trained with Hugging Face's `tokenizers` and encodes with tiktoken, which gives the same ids from the same merges
at two to three times the speed. Every string round-trips, since all that is not merged stays bytes.
"""

import base64
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
import tokenizers

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_atomic, write_json
from kiban.artifacts.hashing import canonical_json, sha256_bytes
from kiban.tokenizer.special import (
    BOS,
    CHAT_TEMPLATE,
    END,
    EOS,
    FIRST_MERGE,
    NUM_SPECIAL,
    PAD,
    ROLES,
    SPECIAL,
)

# Pieces within which merges may happen, tried in this order at every place. A piece of Japanese is a word with what
# hangs on it: kanji or katakana, the hiragana after them (okurigana, particles), and one closing mark. A cut falls only
# where hiragana ends and the next word begins. That compresses better than whole runs of Japanese (1.71 against 1.59
# characters a token on novels, vocabulary 8192), and training holds two thirds of the distinct pieces. There is no
# look-around, so both engines that read this (Oniguruma in `tokenizers`, a backtracking one in tiktoken) take linear
# time; that they give the same pieces is tested over all of Unicode.
_HAN = r"[\p{Han}\u3006\u30F5\u30F6]"  # with 〆 ヵ ヶ, as in 一ヶ月
_HIRAGANA = r"[\p{Hiragana}\u30FC\u3099\u309A]"  # with ー and combining dakuten
_KATAKANA = r"[\p{Katakana}\u30FC\u3099\u309A\uFF70\uFF9E\uFF9F]"  # half-width marks too
_CLOSING = "[、。」]?"
PATTERN = "|".join(
    (
        f"{_KATAKANA}+{_HIRAGANA}*{_CLOSING}",
        f"{_HAN}*{_HIRAGANA}+{_CLOSING}",
        f"{_HAN}+{_CLOSING}",
        r"[^\r\n\p{L}\p{N}]?[A-Za-z\u00C0-\u024F]+",  # a Latin word with the blank or the mark before it
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # punctuation, symbols, with the line end after them
        r"[\p{L}\p{M}]+",  # letters of other scripts
        r"\s*[\r\n]+",
        r"\s+",
    )
)


def _byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-in for every byte, in which tokenizer.json spells its vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


_NONE: frozenset[str] = frozenset()

BYTE_CHARACTER = _byte_characters()
CHARACTER_BYTE = {character: byte for byte, character in BYTE_CHARACTER.items()}


class Tokenizer:
    """`merges`: pairs of byte strings, in order of rank."""

    def __init__(self, merges: Sequence[tuple[bytes, bytes]]) -> None:
        self.merges = tuple(merges)
        ranks = {bytes([byte]): NUM_SPECIAL + byte for byte in range(256)}
        ranks |= {left + right: FIRST_MERGE + i for i, (left, right) in enumerate(self.merges)}
        assert len(ranks) == 256 + len(self.merges), "two merges make the same token"
        self.special = dict(SPECIAL)
        self.bos_id, self.eos_id, self.pad_id = BOS, EOS, PAD
        self._ranks = ranks
        self._encoding = tiktoken.Encoding("kiban", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=SPECIAL)

    @property
    def vocab_size(self) -> int:
        return FIRST_MERGE + len(self.merges)

    @cached_property
    def digest(self) -> str:
        """sha256 of what determines the ids: packed tokens carry it, so that no other tokenizer reads them."""
        spelt = [[_spell(left), _spell(right)] for left, right in self.merges]
        return sha256_bytes(canonical_json({"pattern": PATTERN, "special": SPECIAL, "merges": spelt}))

    def encode(self, text: str) -> list[int]:
        """Token ids. What looks like a special token is text like any other.

        Raises:
            KibanError: for a lone surrogate, which no UTF-8 text holds.
        """
        return self._encode(text).tolist()

    def encode_batch(self, texts: Iterable[str]) -> list[np.ndarray]:
        """uint32 arrays, one a text. Raises as `encode` does."""
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> np.ndarray:
        try:
            return self._encoding.encode_to_numpy(text, allowed_special=_NONE, disallowed_special=_NONE)
        except UnicodeEncodeError as error:
            raise KibanError(
                f"character {error.start} of the text is a lone surrogate; repair the text first"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text; incomplete characters come out as U+FFFD. See `decode_bytes`."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return self._encoding.decode_bytes(list(ids))

    def chat_tokens(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> list[int]:
        """The ids of a conversation: <|bos|>, then <|role|> content <|end|> for each message.

        Raises:
            KibanError: for a role that there is not.
        """
        ids = [BOS]
        for message in messages:
            if message["role"] not in ROLES:
                raise KibanError(f"role '{message['role']}' is not known; use one of {', '.join(ROLES)}")
            ids += [ROLES[message["role"]], *self.encode(message["content"]), END]
        return ids + [ROLES["assistant"]] * add_generation_prompt

    def save(self, folder: Path) -> None:
        """tokenizer.json and tokenizer_config.json for Hugging Face engines, ranks.tiktoken, kiban_tokenizer.json."""
        self.hugging_face().save(str(folder / "tokenizer.json"))
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<|bos|>",
                "eos_token": "<|eos|>",
                "pad_token": "<|pad|>",
                "chat_template": CHAT_TEMPLATE,
                "clean_up_tokenization_spaces": False,
            },
        )
        lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in sorted(self._ranks.items(), key=_rank)]
        write_atomic(folder / "ranks.tiktoken", b"".join(lines))
        write_json(
            folder / "kiban_tokenizer.json",
            {"pattern": PATTERN, "special": SPECIAL, "vocabulary": self.vocab_size, "version": 1},
        )

    def hugging_face(self) -> tokenizers.Tokenizer:
        """The same tokenizer for the `tokenizers` library."""
        vocabulary = dict(SPECIAL)
        vocabulary |= {_spell(token): rank for token, rank in self._ranks.items()}
        merges = [(_spell(left), _spell(right)) for left, right in self.merges]
        made = _pipeline(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
        made.add_special_tokens([tokenizers.AddedToken(name, normalized=False) for name in SPECIAL])
        return made

    @staticmethod
    def load(folder: Path) -> "Tokenizer":
        """From a folder with tokenizer.json.

        Raises:
            KibanError: if it is not one of ours (see `evaluation.scoring` for other folders).
        """
        path = folder / "tokenizer.json"
        content = read_json(path)
        try:
            specials = {token["content"]: token["id"] for token in content["added_tokens"]}
            merges = content["model"]["merges"]
            pattern = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        except (KeyError, IndexError, TypeError):
            specials, merges, pattern = {}, [], ""
        if specials != SPECIAL or pattern != PATTERN:
            raise KibanError(f"{path}: not a tokenizer made by Kiban; use the one that lies with the model")
        return Tokenizer([(_unspell(left), _unspell(right)) for left, right in merges])

    @staticmethod
    def train(texts: Iterable[str], vocabulary: int, may_be_smaller: bool = False) -> "Tokenizer":
        """Learns merges until the vocabulary is full. The same texts give the same merges.

        Texts are read once, in order; memory grows with the number of distinct pieces.

        Raises:
            KibanError: if the vocabulary has no room for merges, or the text has too few pairs that occur twice for it
                (unless it `may_be_smaller`).
        """
        if vocabulary <= FIRST_MERGE:
            raise KibanError(f"a vocabulary of {vocabulary} holds no merge; take more than {FIRST_MERGE}")
        learner = _pipeline(tokenizers.models.BPE())
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocabulary - NUM_SPECIAL,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=list(BYTE_CHARACTER.values()),
        )
        learner.train_from_iterator(texts, trainer)
        learnt: dict[str, Any] = json.loads(learner.to_str())["model"]
        merges = [(_unspell(left), _unspell(right)) for left, right in learnt["merges"]]
        if len(merges) < vocabulary - FIRST_MERGE and not may_be_smaller:
            raise KibanError(
                f"this text supports a vocabulary of {FIRST_MERGE + len(merges)}, not {vocabulary}; "
                "lower `vocabulary` in [tokenizer], or add text"
            )
        return Tokenizer(merges)


def _pipeline(model: tokenizers.models.BPE) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERN), behavior="isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = tokenizers.decoders.ByteLevel()
    return made


def _rank(item: tuple[bytes, int]) -> int:
    return item[1]


def _spell(token: bytes) -> str:
    return "".join(BYTE_CHARACTER[byte] for byte in token)


def _unspell(text: str) -> bytes:
    return bytes(CHARACTER_BYTE[character] for character in text)
