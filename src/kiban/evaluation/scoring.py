"""Log-likelihoods of text under a model, in nats, and what it writes. What texts have in common at their beginning is
computed once. Results are the same in any batch size, up to the last bits of the model's dtype."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from kiban.artifacts.errors import KibanError
from kiban.evaluation.backbones import Backbone, Words, load_kiban

LEAST_SHARED = 32  # tokens that all have in common are kept from call to call if they are so many
GENERATED_AT_ONCE = 64
MOST_PADDING = 0.3  # of a batch's rows, beside the longest


@dataclass(frozen=True)
class TextScore:
    """`log_likelihood` in nats; every token after the first (BOS) counts once; characters are code points."""

    log_likelihood: float
    tokens: int
    characters: int

    @property
    def bits_per_character(self) -> float:
        return -self.log_likelihood / math.log(2) / self.characters


@dataclass(frozen=True)
class _Input:
    """What is read once for all sequences (`owners`) that differ in the last token alone. The first token to be scored
    stands after place `first`."""

    tokens: tuple[int, ...]
    owners: tuple[int, ...]
    first: int


class Scorer:
    """Scores with a model and its tokenizer. `batch_tokens` are read at once, however they are made up."""

    def __init__(self, backbone: Backbone, words: Words, batch_tokens: int | None = None) -> None:
        self.backbone, self.words = backbone, words
        self.context = backbone.context
        self.batch_tokens = batch_tokens or backbone.batch_tokens
        self._encode = lru_cache(4096)(words.encode)
        self._kept: tuple[tuple[int, ...], Any] | None = None  # the beginning that all had in common, and its cache

    @staticmethod
    def load(folder: Path) -> "Scorer":
        """Raises KibanError if `folder` is no exported model."""
        if not (folder / "config.json").is_file():
            raise KibanError(f"{folder}: holds no config.json; give a folder that `kiban export` wrote")
        return Scorer(*load_kiban(folder))

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, int]]:
        """For (context, continuation): log p(continuation | BOS context) in nats, and its number of tokens.

        White space at the end of the context belongs to the continuation. The two are encoded together; what goes
        beyond as many tokens as the context alone has is the continuation, and the context's own tokens stand before it
        (as in lm-evaluation-harness, api/model.py). But a token that joins the two counts for the continuation, so that
        no cut gives it away. A context too long for the model is cut off at the left.

        Raises:
            KibanError: if a continuation has no token, or exceeds the model's context.
        """
        sequences, counted = [], []
        for context, continuation in pairs:
            stripped = context.rstrip()
            before, after = self._divided(stripped, context, continuation)
            fresh = len(after)
            if not fresh:
                raise KibanError(f"the choice '{continuation}' adds no token to what stands before it")
            if fresh > self.context:
                raise KibanError(
                    f"a choice of {fresh} tokens exceeds the model's context of {self.context}; shorten it"
                )
            lead = self.words.lead if stripped else self.words.lead_alone
            # The last token is not read, only asked for: it takes no room.
            sequences.append([*lead, *before, *after][-self.context - 1 :])
            counted.append(fresh)
        scores = self._scores(sequences, counted)
        return [(sum(score), n) for score, n in zip(scores, counted, strict=True)]

    def _divided(self, stripped: str, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The tokens of the context and of the continuation."""
        before, whole = self._encode(stripped), self.words.encode(context + continuation)
        n = len(before)
        if whole[:n] != before:
            # Does a token join white space to the context, or some of the continuation?
            joins_space_alone = n < len(whole) and context.startswith(self.words.decode(whole[:n]))
            if not joins_space_alone:
                n = _common(before, whole)
        return before[:n], whole[n:]

    def texts(self, texts: Sequence[str]) -> list[TextScore]:
        """Whole texts of any length, by windows with half a context of stride: each token is scored once, in the window
        that shows it the most before it."""
        windows, owners, fresh = [], [], []
        for number, text in enumerate(texts):
            if not text:
                raise KibanError("an empty text has no score; give at least one character")
            ids = [*self.words.lead_alone, *self.words.encode(text)]
            scored = 1  # tokens [0, scored) are done; the first needs no score
            start = 0
            while scored < len(ids):
                stop = min(start + self.context, len(ids))
                windows.append(ids[start:stop])
                owners.append(number)
                fresh.append(stop - scored)
                scored = stop
                start += self.context // 2
        sums, counts = [0.0] * len(texts), [0] * len(texts)
        for number, n, scores in zip(owners, fresh, self._scores(windows, fresh), strict=True):
            sums[number] += sum(scores)
            counts[number] += n
        return [TextScore(s, n, len(text)) for s, n, text in zip(sums, counts, texts, strict=True)]

    def _scores(self, sequences: Sequence[Sequence[int]], counted: Sequence[int]) -> list[list[float]]:
        """log p of the last `counted` tokens of each sequence.

        Sequences that differ in the last token alone are one input. Inputs whose beginnings are the same for more than
        half of their length are a group: the beginning is read once, then its endings together.
        """
        if not sequences:
            return []
        by_tokens: dict[tuple[int, ...], list[int]] = {}
        for i, sequence in enumerate(sequences):
            by_tokens.setdefault(tuple(sequence[:-1]), []).append(i)
        inputs = [
            _Input(tokens, tuple(owners), len(tokens) - max(counted[i] for i in owners))
            for tokens, owners in sorted(by_tokens.items())
        ]
        begun = self._begun(inputs)
        groups = _groups(inputs, begun)
        groups.sort(key=lambda group: (len(group) > 1, _cut(group), len(group[-1].tokens)))
        out: list[list[float]] = [[] for _ in sequences]
        for _, alike in groupby(groups, key=lambda group: len(group) > 1):
            for batch in self._batches(list(alike), begun):
                self._score(batch, begun, sequences, counted, out)
        return out

    def _batches(self, groups: list[list[_Input]], begun: int) -> list[list[list[_Input]]]:
        """Groups in order, as many together as `batch_tokens` allow if each row is as long as the longest, and as do
        not fill up more than `MOST_PADDING` of it."""
        batches: list[list[list[_Input]]] = []
        rows = longest = shortest = 0
        for group in groups:
            length = max(len(given.tokens) for given in group) - begun
            full = (rows + len(group)) * max(longest, length) > self.batch_tokens
            if not batches or full or shortest < (1 - MOST_PADDING) * length:
                batches.append([])
                rows, longest, shortest = 0, 0, length
            batches[-1].append(group)
            rows, longest = rows + len(group), max(longest, length)
        return batches

    @torch.inference_mode()
    def _begun(self, inputs: Sequence[_Input]) -> int:
        """Reads the beginning that all inputs have in common, if it is long; it stays for the next call. Gives its
        length."""
        shared = min(_common(inputs[0].tokens, inputs[-1].tokens), min(given.first for given in inputs))
        if len(inputs) == 1 or shared < LEAST_SHARED:
            return 0
        tokens = inputs[0].tokens[:shared]
        if self._kept is not None:
            kept = len(self._kept[0])
            if self._kept[0] == tokens[:kept] and shared - kept < LEAST_SHARED:
                return kept
        nowhere = torch.zeros(0, dtype=torch.long)
        _, cache = self.backbone.forward(torch.tensor([tokens]), None, (nowhere, nowhere))
        self._kept = (tokens, cache)
        return shared

    @torch.inference_mode()
    def _score(
        self,
        groups: list[list[_Input]],
        begun: int,
        sequences: Sequence[Sequence[int]],
        counted: Sequence[int],
        out: list[list[float]],
    ) -> None:
        cache = None
        if begun:
            assert self._kept is not None
            cache = self.backbone.select(self._kept[1], torch.zeros(len(groups), dtype=torch.long))
        read = begun
        if len(groups[0]) > 1 and (cut := min(map(_cut, groups))) > begun:
            nowhere = torch.zeros(0, dtype=torch.long)
            beginnings = torch.tensor([group[0].tokens[begun:cut] for group in groups])
            _, cache = self.backbone.forward(beginnings, cache, (nowhere, nowhere))
            read = cut
        if cache is not None and len(groups[0]) > 1:
            owner = [number for number, group in enumerate(groups) for _ in group]
            cache = self.backbone.select(cache, torch.tensor(owner))
        inputs = [given for group in groups for given in group]
        tokens_BL = torch.zeros(len(inputs), max(len(given.tokens) for given in inputs) - read, dtype=torch.long)
        asked: list[tuple[int, int, int]] = []  # row, column, the token that follows
        for row, given in enumerate(inputs):
            tokens_BL[row, : len(given.tokens) - read] = torch.tensor(given.tokens[read:])
            for i in given.owners:
                start = len(sequences[i]) - counted[i]
                asked += [(row, at - 1 - read, sequences[i][at]) for at in range(start, len(sequences[i]))]
        rows_N, columns_N, targets_N = torch.tensor(asked).T
        states, _ = self.backbone.forward(tokens_BL, cache, (rows_N, columns_N))
        scores = iter(self.backbone.log_probs(states, targets_N).tolist())
        for given in inputs:
            for i in given.owners:
                out[i] = [next(scores) for _ in range(counted[i])]

    def generate(self, prompts: Sequence[str], max_tokens: int, stop: Sequence[str]) -> list[str]:
        """What the model writes after each prompt, the likeliest token at a time, up to a stop string, a token that
        ends a text, or `max_tokens` (at most half of the context). A prompt too long is cut off at the left, so that
        `max_tokens` have room."""
        max_tokens = min(max_tokens, self.context // 2)
        ids = [[*self.words.lead, *self.words.encode(prompt)][max_tokens - self.context :] for prompt in prompts]
        texts = [""] * len(ids)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), GENERATED_AT_ONCE):
            batch = order[start : start + GENERATED_AT_ONCE]
            for i, text in zip(batch, self._generate([ids[i] for i in batch], max_tokens, stop), strict=True):
                texts[i] = text
        return texts

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]], max_tokens: int, stop: Sequence[str]) -> list[str]:
        """Prompts in order of length. All are read up to the end of the shortest; a longer one goes on with its own
        tokens while the others write. Rows that are done are left out."""
        texts = [""] * len(prompts)
        live = list(range(len(prompts)))
        written: list[list[int]] = [[] for _ in prompts]
        read = len(prompts[0])
        fed_BL, cache = torch.tensor([prompt[:read] for prompt in prompts]), None
        while live:
            last = torch.full((len(live),), fed_BL.shape[1] - 1)
            states, cache = self.backbone.forward(fed_BL, cache, (torch.arange(len(live)), last))
            likeliest = self.backbone.logits(states).argmax(-1).tolist()
            going: list[int] = []
            fed: list[int] = []
            for row, i in enumerate(live):
                if read < len(prompts[i]):
                    fed.append(prompts[i][read])
                    going.append(row)
                    continue
                token = likeliest[row]
                if token not in self.words.ends:
                    written[i].append(token)
                texts[i] = self.words.decode(written[i])
                cut = min((at for s in stop if (at := texts[i].find(s)) >= 0), default=-1)
                if cut >= 0:
                    texts[i] = texts[i][:cut]
                if token in self.words.ends or cut >= 0 or len(written[i]) == max_tokens:
                    continue
                fed.append(token)
                going.append(row)
            if len(going) < len(live):
                cache = self.backbone.select(cache, torch.tensor(going, dtype=torch.long)) if going else None
                live = [live[row] for row in going]
            fed_BL = torch.tensor(fed)[:, None] if fed else fed_BL
            read += 1
        return texts


def _common(a: Sequence[int], b: Sequence[int], start: int = 0) -> int:
    """How many tokens two sequences begin with together; the first `start` are known to be."""
    end = min(len(a), len(b))
    return next((i for i in range(start, end) if a[i] != b[i]), end)


def _groups(inputs: Sequence[_Input], begun: int) -> list[list[_Input]]:
    """Inputs in order of their tokens, in groups that have more than half of what follows `begun` in common."""
    groups: list[list[_Input]] = []
    for given in inputs:
        if groups:
            shared = _common(groups[-1][0].tokens, given.tokens, begun)
            if 2 * (min(shared, given.first) - begun) > len(given.tokens) - begun:
                groups[-1].append(given)
                continue
        groups.append([given])
    return groups


def _cut(group: Sequence[_Input]) -> int:
    """How much of a group's inputs is read together: what they have in common, and before what is scored."""
    return min(_common(group[0].tokens, group[-1].tokens), min(given.first for given in group))
