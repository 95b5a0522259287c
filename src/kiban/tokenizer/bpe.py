"""The tokenizer: training, encoding, decoding, and the files that other engines read.

A byte-level BPE whose encoding follows tiktoken's rule (see `encoding.py`), so ids are the same from tiktoken with
`ranks.tiktoken`, from `tokenizers`, transformers and vLLM with `tokenizer.json`, and from our kernel. Every string
round-trips, since all that is not merged stays bytes.
"""

import base64
from array import array
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_atomic, write_json
from kiban.artifacts.hashing import canonical_json, sha256_bytes
from kiban.tokenizer.encoding import Tables
from kiban.tokenizer.pieces import PATTERNS
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

if TYPE_CHECKING:
    import pyarrow as pa
    import tokenizers

SECOND_STAGE = 0.3  # the share of merges that is learnt over clauses


def _byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-in for every byte, in which tokenizer.json spells its vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


BYTE_CHARACTER = _byte_characters()
CHARACTER_BYTE = {character: byte for byte, character in BYTE_CHARACTER.items()}


class Tokenizer:
    """`tokens`: what is made by merging, in order of rank. `pieces`: the pattern that text is cut by."""

    def __init__(self, tokens: Sequence[bytes], pieces: str = "clauses") -> None:
        self.tokens, self.pieces = tuple(tokens), pieces
        self.special = dict(SPECIAL)
        self.bos_id, self.eos_id, self.pad_id = BOS, EOS, PAD
        known = [*(bytes([byte]) for byte in range(256)), *self.tokens]
        if len(set(known)) != len(known):
            raise ValueError("two tokens are the same bytes")
        self._tables = Tables.of(known, list(SPECIAL))
        self._known = known

    @property
    def vocab_size(self) -> int:
        return FIRST_MERGE + len(self.tokens)

    @property
    def pattern(self) -> str:
        return PATTERNS[self.pieces]

    @cached_property
    def digest(self) -> str:
        """sha256 of what determines the ids: packed tokens carry it, so that no other tokenizer reads them."""
        spelt = [_spell(token) for token in self.tokens]
        return sha256_bytes(canonical_json({"pattern": self.pattern, "special": SPECIAL, "tokens": spelt}))

    def encode(self, text: str, parse_special: bool = False) -> list[int]:
        """Token ids. What looks like a special token is text like any other, unless it is asked to `parse_special`.

        Raises:
            KibanError: for a lone surrogate, which no UTF-8 text holds.
        """
        if not parse_special:
            return self._encode(text).tolist()
        import re

        ids: list[int] = []
        for part in re.split(f"({'|'.join(map(re.escape, SPECIAL))})", text):
            ids += [SPECIAL[part]] if part in SPECIAL else self._encode(part).tolist()
        return ids

    def encode_strings(self, texts: "pa.StringArray | pa.LargeStringArray", threads: int = 1) -> tuple[np.ndarray, ...]:
        """(ids uint32, offsets int64) of N strings without nulls, read in place from Arrow's buffers: string t is
        ids[offsets[t] : offsets[t + 1]]. `threads` share the strings out; the outcome does not depend on them."""
        import pyarrow as pa

        assert texts.null_count == 0
        wide = np.int64 if pa.types.is_large_string(texts.type) else np.int32
        _, starts, content = texts.buffers()
        offsets = np.frombuffer(starts, wide)[texts.offset : texts.offset + len(texts) + 1] if len(texts) else _EMPTY
        data = np.frombuffer(content, np.uint8) if content is not None and content.size else _NO_BYTES
        offsets, by_clauses = offsets.astype(np.int64), self.pieces == "clauses"
        if threads == 1 or len(texts) < 2:
            return self._tables.encode(data, offsets, by_clauses)
        size = offsets[-1] - offsets[0]
        cuts = np.searchsorted(offsets, offsets[0] + size * np.arange(1, 4 * threads) // (4 * threads))
        parts = [offsets[a : b + 1] for a, b in zip([0, *cuts], [*cuts, len(texts)], strict=True) if b > a]
        with ThreadPoolExecutor(threads) as pool:
            made = list(pool.map(lambda part: self._tables.encode(data, part, by_clauses), parts))
        before = np.cumsum([0, *(len(ids) for ids, _ in made)])
        ends = [ends[1:] + start for (_, ends), start in zip(made, before, strict=False)]
        return np.concatenate([ids for ids, _ in made]), np.concatenate([[0], *ends])

    def _encode(self, text: str) -> np.ndarray:
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise KibanError(
                f"character {error.start} of the text is a lone surrogate; repair the text first"
            ) from None
        offsets = np.array([0, len(data)], np.int64)
        ids, _ = self._tables.encode(np.frombuffer(data or b"\0", np.uint8), offsets, self.pieces == "clauses")
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text; incomplete characters come out as U+FFFD. See `decode_bytes`."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Raises KibanError for an id that is not in the vocabulary."""
        if not isinstance(ids, np.ndarray):
            try:
                ids = np.frombuffer(array("I", ids), np.uint32)
            except OverflowError:
                raise KibanError("a token id is negative, or larger than any vocabulary") from None
        if not len(ids):
            return b""
        if ids.min() < 0 or ids.max() >= self.vocab_size:
            worst = ids.min() if ids.min() < 0 else ids.max()
            raise KibanError(f"there is no token {worst} in a vocabulary of {self.vocab_size}")
        return self._tables.decode(ids.astype(np.uint32, copy=False))

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
                "add_bos_token": True,  # llama.cpp's converter reads it here
                "chat_template": CHAT_TEMPLATE,
                "clean_up_tokenization_spaces": False,
            },
        )
        lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in self.ranks().items()]
        write_atomic(folder / "ranks.tiktoken", b"".join(lines))
        write_json(
            folder / "kiban_tokenizer.json",
            {"pattern": self.pattern, "special": SPECIAL, "vocabulary": self.vocab_size, "version": 2},
        )

    def ranks(self) -> dict[bytes, int]:
        """Ids by bytes, as tiktoken takes them."""
        return {token: NUM_SPECIAL + i for i, token in enumerate(self._known)}

    def hugging_face(self) -> "tokenizers.Tokenizer":
        """The same tokenizer for the `tokenizers` library. Its merges are all pairs of tokens that together are a
        token, in order of rank, and a piece that is a token is not merged: tiktoken's rule. BOS is put before a text,
        unless special tokens are declined (`add_special_tokens=False`): no model of ours has seen a text without."""
        import tokenizers

        vocabulary = dict(SPECIAL)
        vocabulary |= {_spell(token): rank for token, rank in self.ranks().items()}
        merges = [(_spell(left), _spell(right)) for left, right in self._merges()]
        made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
        made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
            [
                tokenizers.pre_tokenizers.Split(tokenizers.Regex(self.pattern), behavior="isolated"),
                tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", BOS)]
        )
        made.decoder = tokenizers.decoders.ByteLevel()
        made.add_special_tokens([tokenizers.AddedToken(name, normalized=False) for name in SPECIAL])
        return made

    def _merges(self) -> list[tuple[bytes, bytes]]:
        known = set(self._known)
        return [
            (token[:i], token[i:])
            for token in self.tokens
            for i in range(1, len(token))
            if token[:i] in known and token[i:] in known
        ]

    @staticmethod
    def load(folder: Path) -> "Tokenizer":
        """From a folder with tokenizer.json.

        Raises:
            KibanError: if it is not one of ours (see `evaluation.scoring` for other folders).
        """
        path = folder / "tokenizer.json"
        content = read_json(path)
        pieces_of = {pattern: name for name, pattern in PATTERNS.items()}
        try:
            specials = {token["content"]: token["id"] for token in content["added_tokens"]}
            pieces = pieces_of.get(content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"])
            spelt = sorted(content["model"]["vocab"].items(), key=lambda item: item[1])
            tokens = [_unspell(name) for name, rank in spelt if rank >= FIRST_MERGE]
            whole = [rank for _, rank in spelt] == list(range(len(spelt)))
        except (KeyError, IndexError, TypeError, AttributeError):
            specials, pieces, tokens, whole = {}, None, [], False
        if specials != SPECIAL or pieces is None or not whole:
            raise KibanError(
                f"{path}: not a tokenizer made by Kiban, or by an older version; use the one that lies with the "
                "model, or run its programme again"
            )
        try:
            return Tokenizer(tokens, pieces)
        except ValueError as error:
            raise KibanError(f"{path}: damaged: {error}; copy it again from where it was made") from None

    @staticmethod
    def train(
        texts: Iterable[str], vocabulary: int, may_be_smaller: bool = False, second_stage: float = SECOND_STAGE
    ) -> "Tokenizer":
        """Learns merges until the vocabulary is full. The same texts give the same merges.

        Texts are read once, in order; memory is bounded (see `counting.py`). `second_stage` is the share of merges that
        is learnt over clauses; with 0, text is encoded by words.

        Raises:
            KibanError: if the vocabulary has no room for merges, a text holds a lone surrogate, or the text has too few
                pairs that occur twice for it (unless it `may_be_smaller`).
        """
        from kiban.tokenizer.training import learn_tokens

        if vocabulary <= FIRST_MERGE:
            raise KibanError(f"a vocabulary of {vocabulary} holds no merge; take more than {FIRST_MERGE}")
        try:
            tokens = learn_tokens(texts, vocabulary - FIRST_MERGE, second_stage, list(SPECIAL))
        except UnicodeEncodeError as error:
            raise KibanError(f"character {error.start} of a text is a lone surrogate; repair the text first") from None
        if len(tokens) < vocabulary - FIRST_MERGE and not may_be_smaller:
            raise KibanError(
                f"this text supports a vocabulary of {FIRST_MERGE + len(tokens)}, not {vocabulary}; "
                "lower `vocabulary` in [tokenizer], or add text"
            )
        return Tokenizer(tokens, "clauses" if second_stage else "words")


_EMPTY = np.zeros(1, np.int64)
_NO_BYTES = np.frombuffer(b"\0", np.uint8)  # not writable, as what Arrow gives: the kernel has one signature


def _spell(token: bytes) -> str:
    return "".join(BYTE_CHARACTER[byte] for byte in token)


def _unspell(text: str) -> bytes:
    return bytes(CHARACTER_BYTE[character] for character in text)
