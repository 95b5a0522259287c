"""Several cores by several batches: each thread takes part of the rows through a twin of the model, and the gradients
are added in a fixed order.

On a CPU that is faster than to share out each operation: most are too small for it, and the threads of an operation
wait for each other, so that one busy neighbour on the machine slows all of them down by ten times (seen with 2 cores).
"""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from kiban.model.attention import Attention
from kiban.model.moe import MoE
from kiban.model.sums import add_to
from kiban.model.transformer import Transformer
from kiban.tokenizer.special import BOS

Stats = dict[str, Tensor]


class Workers:
    """`number` twins of `model`. They share its weights and routing bias, and have gradients of their own. Where the
    model computes in lower precision, the matrices in its blocks are cast once a step, and the twins share the cast.

    Each computes on `threads // number` cores, what comes between on `threads`. A context.
    """

    def __init__(self, model: Transformer, number: int, threads: int) -> None:
        self._model, self._threads = model, threads
        self._each = max(1, threads // number)
        weights = dict(model.named_parameters())
        cast = {name: weights[name] for name in weights if model.dtype != torch.float32 and _is_product(name, weights)}
        self._wide = [weight.detach() for weight in cast.values()]
        self._low = [weight.to(model.dtype) for weight in self._wide]
        twins = number if number > 1 or cast else 0
        self._twins = [_twin(model, dict(zip(cast, self._low, strict=True))) for _ in range(twins)]
        self._shares = _shares(list(zip(*(list(m.parameters()) for m in [model, *self._twins]), strict=True)), threads)
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(self._each,))

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def backward(
        self, tokens_BX: Tensor, share: float, balance_weight: float, first: bool, mask_documents: bool = False
    ) -> Stats:
        """The gradient of the mean loss over the rows times `share` becomes that of the model, or is added to it if it
        is not the `first` of a step; gives what `Transformer.loss` tells, times `share`. With `mask_documents` a token
        sees what follows the last BOS before it alone."""

        def work(model: Transformer, part_BX: Tensor) -> Stats:
            weight = share * len(part_BX) / len(tokens_BX)
            document_BL = (part_BX[:, :-1] == BOS).cumsum(1) if mask_documents else None
            loss, stats = model.loss(part_BX[:, :-1], part_BX[:, 1:], balance_weight, document_BL)
            (loss * weight).backward()
            return {name: value * weight for name, value in stats.items()}

        if not self._twins:
            if first:
                self._model.zero_grad()
            return work(self._model, tokens_BX)
        torch.set_num_threads(self._each)
        parts = tokens_BX.tensor_split(min(len(self._twins), len(tokens_BX)))
        found = list(self._pool.map(work, self._twins, parts))
        list(self._pool.map(lambda parameters: _take_gradients(parameters, first), self._shares))
        for twin in self._twins:
            self._take_counts(twin)
        torch.set_num_threads(self._threads)
        return {name: torch.stack([stats[name] for stats in found]).sum() for name in found[0]}

    def refresh(self) -> None:
        """After the weights have changed."""
        if self._low:
            torch._foreach_copy_(self._low, self._wide)

    def _take_counts(self, twin: Transformer) -> None:
        for module, other in zip(self._model.modules(), twin.modules(), strict=True):
            if isinstance(module, MoE) and isinstance(other, MoE):
                module.load_E += other.load_E
                other.load_E.zero_()
            elif isinstance(module, Attention) and isinstance(other, Attention) and other.max_logit_H is not None:
                module.watch(other.max_logit_H)
                other.max_logit_H = None


def _take_gradients(parameters: list[tuple[Tensor, ...]], first: bool) -> None:
    """Those of the twins to the model's, which are never given up: to get their memory again costs more than to fill
    it."""
    for parameter, *others in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        elif first:
            parameter.grad.zero_()
        for other in others:
            if other.grad is not None:
                add_to(parameter.grad, other.grad)
                other.grad = None


def _shares(parameters: list[tuple[Tensor, ...]], number: int) -> list[list[tuple[Tensor, ...]]]:
    """In so many parts of about the same number of elements."""
    parts: list[list[tuple[Tensor, ...]]] = [[] for _ in range(number)]
    sizes = [0] * number
    for group in sorted(parameters, key=lambda group: -group[0].numel()):
        smallest = sizes.index(min(sizes))
        parts[smallest].append(group)
        sizes[smallest] += group[0].numel()
    return parts


def _is_product(name: str, weights: dict[str, nn.Parameter]) -> bool:
    """Whether it is used in one product alone. Router and norms work in float32; the gradients of embedding and head
    are sums over all tokens."""
    return name.startswith(("layers.", "mtp.")) and weights[name].dim() > 1 and not name.endswith("mlp.gate.weight")


def _twin(model: Transformer, cast: dict[str, Tensor]) -> Transformer:
    with torch.device("meta"):
        twin = Transformer(model.config)
    twin.load_state_dict(model.state_dict() | cast, assign=True)
    for module, other in zip(model.modules(), twin.modules(), strict=True):
        if isinstance(module, MoE) and isinstance(other, MoE):
            other.load_E = torch.zeros_like(module.load_E)
        elif isinstance(module, Attention) and isinstance(other, Attention):
            other.watched = module.watched
    twin.dtype = model.dtype
    return twin.train(model.training)
