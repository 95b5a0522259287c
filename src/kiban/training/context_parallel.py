"""Context parallelism: the ranks of a group share each sequence, and none holds more than its part of the activations.

Under the causal mask late tokens cost more than early ones, so a rank takes one part from the head of a sequence and
one, mirrored, from its tail (Llama 3, arXiv 2407.21783, section 3.3.2). Attention needs the keys and values of all
earlier tokens; what is exchanged is what they are made from, the latent and the rotary key (DeepSeek-V2, arXiv
2405.04434, section 2.1): `kv_lora_rank + qk_rope_head_dim` numbers a token, not a key and a value for each head.

B batch, S whole length, L length here, M positions of MTP here, X = S + 1, Y = C + R: latent and rotary key together.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from kiban.artifacts.errors import KibanError
from kiban.model.attention import LatentCache
from kiban.model.moe import MoE
from kiban.model.transformer import Sample, Transformer
from kiban.tokenizer.special import BOS

Run = tuple[int, int]  # first position and last + 1

# Their names up to torch 2.12, and since.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def runs_of(rank: int, ranks: int, length: int) -> list[Run]:
    """The positions of a rank: one part from the head, one from the tail; all of them if it is alone.

    Raises:
        KibanError: if the sequence does not divide into two parts for each rank.
    """
    if ranks == 1:
        return [(0, length)]
    if length % (2 * ranks):
        raise KibanError(
            f"sequences of {length} tokens do not divide into the {2 * ranks} parts that context = {ranks} takes; "
            f"make sequence_length a multiple of {2 * ranks}, or lower context"
        )
    part = length // (2 * ranks)
    return [(part * i, part * (i + 1)) for i in (rank, 2 * ranks - 1 - rank)]


class SharedSequence(LatentCache):
    """What attention knows of the tokens on the other ranks of `group`: all latents and rotary keys, in the order of
    their positions. Of `length` positions the first `used` take part; parts need not be of equal size."""

    def __init__(self, group: dist.ProcessGroup, length: int, used: int) -> None:
        super().__init__()
        ranks = group.size()
        clipped = [
            [(start, min(end, used)) for start, end in runs_of(rank, ranks, length) if start < used]
            for rank in range(ranks)
        ]
        self._group, self._runs = group, clipped[group.rank()]
        sizes = [sum(end - start for start, end in runs) for runs in clipped]
        self._most = max(sizes)
        places = [p for runs in clipped for start, end in runs for p in range(start, end)]
        rows = [rank * self._most + row for rank, size in enumerate(sizes) for row in range(size)]
        self._row_S = torch.empty(used, dtype=torch.int64)  # of what is gathered, for each position
        self._row_S[places] = torch.tensor(rows)

    def runs(self, length: int) -> list[Run]:
        assert length == sum(end - start for start, end in self._runs)
        return self._runs

    def append(self, latent_BLC: Tensor, key_BLR: Tensor) -> tuple[Tensor, Tensor]:
        sizes = [latent_BLC.shape[-1], key_BLR.shape[-1]]
        ours_BLY = torch.cat([latent_BLC, key_BLR], dim=-1)
        ours_BLY = F.pad(ours_BLY, (0, 0, 0, self._most - ours_BLY.shape[1]))
        rows_BPY = _AllGather.apply(ours_BLY, self._group).transpose(0, 1).flatten(1, 2)
        latent_BSC, key_BSR = rows_BPY.index_select(1, self._row_S.to(rows_BPY.device)).split(sizes, dim=-1)
        return latent_BSC, key_BSR


class _AllGather(torch.autograd.Function):
    """[ranks, ...] of what each rank gives; backward, the sum over the ranks of what each has for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        out = x.new_empty(group.size() * len(x), *x.shape[1:])
        all_gather(out, x.contiguous(), group)
        return out.view(group.size(), *x.shape)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None]:
        dx = torch.empty_like(dout[0])
        reduce_scatter(dx, dout.flatten(0, 1).contiguous(), group=ctx.group)
        return dx, None


def balance_over(model: Transformer, group: dist.ProcessGroup | None) -> None:
    """The balance loss counts whole sequences, of which the ranks of `group` have parts."""

    def summed(counts_BE: Tensor) -> Tensor:
        counts_BE = counts_BE.clone()
        dist.all_reduce(counts_BE, group=group)
        return counts_BE

    for moe in (module for module in model.modules() if isinstance(module, MoE)):
        moe.over_sequence = summed


class Context:
    """How sequences of `length` tokens are shared by the ranks of `group`; by nobody if it is None.

    Raises:
        KibanError: if they do not divide.
    """

    def __init__(self, length: int, group: dist.ProcessGroup | None = None) -> None:
        self.length, self.group = length, group if group is not None and group.size() > 1 else None
        self._runs: list[Run] = [(0, length)]
        self._caches: tuple[LatentCache | None, LatentCache | None] = (None, None)
        if self.group is not None:
            self._runs = runs_of(self.group.rank(), self.group.size(), length)
            self._caches = SharedSequence(self.group, length, length), SharedSequence(self.group, length, length - 1)

    @property
    def ranks(self) -> int:
        return self.group.size() if self.group is not None else 1

    def attach(self, model: Transformer) -> None:
        """So that the balance loss counts whole sequences."""
        if self.group is None:
            return
        balance_over(model, self.group)

    def sample(self, tokens_BX: Tensor, mask_documents: bool = False) -> Sample:
        """This rank's part of whole rows, targets and all: no halo has to be sent. With `mask_documents` a token sees
        what follows the last BOS before it alone."""
        assert tokens_BX.shape[1] == self.length + 1

        def part(shift: int) -> Tensor:
            """The tokens so far behind this rank's; what would lie behind the end is left out."""
            places = [tokens_BX[:, start + shift : end + shift] for start, end in self._runs]
            return torch.cat(places, 1) if len(places) > 1 else places[0]

        document_BS = (tokens_BX[:, :-1] == BOS).cumsum(1) if mask_documents else None
        return Sample(part(0), part(1), part(2), document_BS, *self._caches)

    def shares(self, sample: Sample) -> dict[str, float]:
        """What each part of the loss is multiplied by, so that the sum over the ranks is that of whole rows: means over
        tokens count by how many of the tokens are here; the balance loss is a sum already."""
        L, M = sample.tokens_BL.shape[1], sample.mtp_targets_BM.shape[1]
        return {"loss": L / self.length, "mtp_loss": M / (self.length - 1), "balance_loss": 1.0}
