"""Models behind one face: tokens in, log-probabilities out, with a cache of what came before.

B batch, L length, D hidden, V vocabulary, N places whose next token is asked for.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from kiban.artifacts.errors import KibanError
from kiban.model.attention import LatentCache
from kiban.model.transformer import Transformer
from kiban.tokenizer.bpe import Tokenizer
from kiban.tokenizer.special import BOS, EOS, NUM_SPECIAL

CHUNK_LOGITS = 2**24  # that are held at once


class Words(Protocol):
    """What is needed of a tokenizer. `lead` goes before every text, `lead_alone` before one without a context."""

    lead: list[int]
    lead_alone: list[int]
    ends: set[int]

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class Backbone(Protocol):
    context: int
    batch_tokens: int

    def forward(self, tokens_BL: Tensor, cache: Any, asked_N: tuple[Tensor, Tensor]) -> tuple[Any, Any]:
        """Reads on after `cache` (None: from the beginning). Gives the states at the asked (rows, columns), and the
        cache."""

    def log_probs(self, states: Any, targets_N: Tensor) -> Tensor:
        """log p of the targets after each asked place, float64."""

    def logits(self, states: Any) -> Tensor:
        """[N, V], float32."""

    def select(self, cache: Any, rows: Tensor) -> Any:
        """A cache with those rows of another, which stays as it is."""


class KibanWords:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.lead = self.lead_alone = [BOS]
        self.ends = {EOS}
        self.encode = tokenizer.encode

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(i for i in ids if i >= NUM_SPECIAL)


class KibanBackbone:
    """Our own model. Logits are made at the asked places alone, some at a time."""

    batch_tokens = 8192

    def __init__(self, model: Transformer) -> None:
        self.model = model.eval()
        self.context = model.config.max_position_embeddings

    def forward(self, tokens_BL: Tensor, cache: Any, asked_N: tuple[Tensor, Tensor]) -> tuple[Tensor, Any]:
        cache = cache if cache is not None else self.model.new_cache()
        hidden_BLD = self.model(tokens_BL, cache)
        return hidden_BLD[asked_N[0], asked_N[1]], cache

    def log_probs(self, states: Tensor, targets_N: Tensor) -> Tensor:
        rows = max(1, CHUNK_LOGITS // self.model.config.vocab_size)
        parts = []
        for start in range(0, len(states), rows):
            logits_NV = self.logits(states[start : start + rows])
            wanted_N = logits_NV.gather(1, targets_N[start : start + rows, None])[:, 0]
            parts.append(wanted_N.double() - logits_NV.logsumexp(-1).double())
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    def logits(self, states: Tensor) -> Tensor:
        logits_NV = self.model.logits(states)
        return logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()

    def select(self, cache: list[LatentCache], rows: Tensor) -> list[LatentCache]:
        return [LatentCache(c.latent_BSC[rows], c.key_BSR[rows]) for c in cache]  # type: ignore[index]


class HuggingFaceWords:
    """Reads a text as the tokenizer does by default: with its leading special tokens, if it puts any."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        plain, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
        self.lead = whole[: next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)]
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if first is None:
            raise KibanError("the tokenizer has neither a BOS nor an EOS token; a text has nothing to begin with")
        self.lead_alone = self.lead or [first]
        self.ends: set[int] = {tokenizer.eos_token_id} - {None}

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


class HuggingFaceBackbone:
    """Any causal model of transformers, by its own forward pass: what it does to its logits is done."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        config = model.config.get_text_config()
        self.context = next(
            (
                int(n)
                for key in ("max_position_embeddings", "n_positions", "n_ctx")
                if (n := getattr(config, key, None))
            ),
            2048,
        )
        self.batch_tokens = max(256, min(8192, 2**27 // config.vocab_size))
        parameters = inspect.signature(model.forward).parameters
        self.keeps = "logits_to_keep" in parameters
        self.cache = "cache" if "cache" in parameters else "past_key_values"  # its name until transformers 5.24

    def forward(self, tokens_BL: Tensor, cache: Any, asked_N: tuple[Tensor, Tensor]) -> tuple[Tensor, Any]:
        from transformers import DynamicCache

        cache = cache if cache is not None else DynamicCache()
        rows_N, columns_N = asked_N
        columns_P, place_N = columns_N.unique(return_inverse=True)
        if not len(columns_P):  # a pass for the cache alone
            columns_P = torch.zeros(1, dtype=torch.long)
        given = {"logits_to_keep": columns_P} if self.keeps else {}
        out = self.model(input_ids=tokens_BL, use_cache=True, **{self.cache: cache}, **given)
        logits_BPV = out.logits if self.keeps else out.logits[:, columns_P]
        return logits_BPV[rows_N, place_N], cache

    def log_probs(self, states: Tensor, targets_N: Tensor) -> Tensor:
        logits_NV = self.logits(states)
        return logits_NV.gather(1, targets_N[:, None])[:, 0].double() - logits_NV.logsumexp(-1).double()

    def logits(self, states: Tensor) -> Tensor:
        return states if states.dtype == torch.float64 else states.float()

    def select(self, cache: Any, rows: Tensor) -> Any:
        import copy

        chosen = copy.deepcopy(cache)
        chosen.batch_select_indices(rows)
        return chosen


def load_kiban(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[KibanBackbone, KibanWords]:
    """An exported model of ours.

    Raises:
        KibanError: if it is none, or its tokenizer is not of its vocabulary.
    """
    from kiban.model import hf

    return paired(hf.load(folder, dtype), Tokenizer.load(folder), folder)


def load_run(run: Path, tokenizer: Path) -> tuple[KibanBackbone, KibanWords]:
    """A training run's folder, or one of its checkpoints, with the folder that its tokenizer lies in.

    Raises:
        KibanError: if it holds no trained model, a damaged one, or one of another vocabulary.
    """
    import tempfile

    from kiban.model import hf
    from kiban.training.export import export_run

    with tempfile.TemporaryDirectory(prefix="kiban-") as folder:
        export_run(run, tokenizer, Path(folder))
        return paired(hf.load(Path(folder)), Tokenizer.load(Path(folder)), run)


def paired(model: Transformer, tokenizer: Tokenizer, folder: Path) -> tuple[KibanBackbone, KibanWords]:
    if tokenizer.vocab_size != model.config.vocab_size:
        raise KibanError(
            f"{folder}: the model has a vocabulary of {model.config.vocab_size}, the tokenizer one of "
            f"{tokenizer.vocab_size}; scores would mean nothing: use the tokenizer that it was trained with"
        )
    return KibanBackbone(model), KibanWords(tokenizer)


def load_hugging_face(folder: Path, dtype: torch.dtype | str = "auto") -> tuple[HuggingFaceBackbone, HuggingFaceWords]:
    """Any folder that transformers loads, without running code that lies in it.

    Raises:
        KibanError: if transformers is not installed or cannot load it, or its tokenizer is not of its vocabulary.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise KibanError(f"{folder}: not a model of ours, and transformers is not installed; pip install it") from None
    try:
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise KibanError(f"{folder}: transformers cannot load it ({str(error).splitlines()[0][:200]})") from None
    embeddings: Any = model.get_input_embeddings()
    vocabulary = int(embeddings.weight.shape[0])
    if len(tokenizer) > vocabulary:
        raise KibanError(
            f"{folder}: the model has a vocabulary of {vocabulary}, the tokenizer one of {len(tokenizer)}; scores "
            "would mean nothing: use the tokenizer that it was trained with"
        )
    words = HuggingFaceWords(tokenizer)
    also = model.generation_config.eos_token_id
    words.ends |= set(also) if isinstance(also, list) else {also} - {None}
    return HuggingFaceBackbone(model), words
