"""Counts what a step does while it runs on fake tensors: memory by kind, collectives, operations.

Every operation passes a dispatch mode. A storage belongs to the kind of the phase that it was made in, unless it turns
out to be a gradient or a state of the optimiser; what is held at the highest total is what is told.
"""

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# What a collective is called here, by how PyTorch's two families call it.
COLLECTIVES = {
    "all_gather": ("allgather_", "_allgather_base_", "allgather_into_tensor_coalesced_", "all_gather_into_tensor",
                   "all_gather_into_tensor_coalesced", "all_gather_into_tensor_out"),
    "reduce_scatter": ("reduce_scatter_", "_reduce_scatter_base_", "reduce_scatter_tensor",
                       "reduce_scatter_tensor_coalesced", "reduce_scatter_tensor_coalesced_"),
    "all_reduce": ("allreduce_", "all_reduce", "all_reduce_", "allreduce_coalesced_", "all_reduce_coalesced"),
    "all_to_all": ("alltoall_", "alltoall_base_", "all_to_all_single"),
    "broadcast": ("broadcast_", "broadcast"),
    "send": ("send",),
    "recv": ("recv_",),
}  # fmt: skip
OUTPUTS_FIRST = ("_allgather_base_", "allgather_into_tensor_coalesced_", "allgather_", "_reduce_scatter_base_",
                 "reduce_scatter_tensor_coalesced_", "reduce_scatter_", "alltoall_base_", "alltoall_")  # fmt: skip
NAMED = {name: op for op, names in COLLECTIVES.items() for name in names}


@dataclass(frozen=True)
class Collective:
    op: str
    axis: str  # of the mesh, or the ranks
    ranks: int
    bytes: int  # that this rank sends, in a ring (all-gather, reduce-scatter, all-reduce) or directly


def wire(op: str, ranks: int, given: int, got: int) -> int:
    """Bytes that each rank sends. In a ring an all-gather passes all parts but one on, a reduce-scatter likewise, an
    all-reduce is both (Patarasuk and Yuan, J. Parallel Distrib. Comput. 69:117, 2009); of an all-to-all a rank keeps
    its own part. `given` and `got`: bytes of what goes in and what comes out here."""
    others = (ranks - 1) / ranks
    if op == "all_gather":
        return round(others * got)
    if op == "reduce_scatter":
        return round(others * given)
    if op == "all_reduce":
        return round(2 * others * given)
    if op == "all_to_all":
        return round(others * given)
    return 0 if op == "recv" else given


class Counter(TorchDispatchMode):
    """`axis_of` names a process group, by what is done and its ranks."""

    axis_of: Callable[[str, tuple[int, ...]], str]

    def __init__(self) -> None:
        super().__init__()
        self.phase = "other"
        self._aside = False
        self.flops = 0
        self.collectives: list[Collective] = []
        self._held: dict[int, tuple[int, str]] = {}  # by number of a storage: bytes, kind
        self._number = weakref.WeakKeyDictionary[Any, int]()
        self._next = 0
        self.now: dict[str, int] = defaultdict(int)
        self.peak: dict[str, int] = {}
        self._peak_total = 0
        self._peak_held: set[int] = set()

    @contextmanager
    def counting(self) -> Iterator["Counter"]:
        """What FSDP2 gathers it puts into storages that it resizes; gradients that are not summed yet it keeps beside
        its weights. What DTensor tries out on stand-ins of whole tensors, to learn shapes, does not count."""
        from torch.distributed.fsdp._fully_shard._fsdp_param import FSDPParam
        from torch.distributed.tensor._sharding_prop import ShardingPropagator

        resize, learn = torch.UntypedStorage.resize_, ShardingPropagator._propagate_tensor_meta_non_cached

        def counted(storage: Any, size: int) -> Any:
            done = resize(storage, size)
            self._take(storage, "communication")
            return done

        def aside(*args: Any) -> Any:
            was, self._aside = self._aside, True
            try:
                return learn(*args)
            finally:
                self._aside = was

        keep, add = FSDPParam.to_accumulated_grad_if_needed, FSDPParam.accumulate_unsharded_grad_if_needed

        def kept(weight: Any, step: Callable[[Any], None] = keep) -> None:
            step(weight)
            self.mark([weight.unsharded_accumulated_grad, weight._unsharded_param.grad], "gradients")

        def added(weight: Any) -> None:
            kept(weight, add)

        FSDPParam.to_accumulated_grad_if_needed = kept  # type: ignore[assignment,method-assign]
        FSDPParam.accumulate_unsharded_grad_if_needed = added  # type: ignore[assignment,method-assign]
        ShardingPropagator._propagate_tensor_meta_non_cached = aside  # type: ignore[assignment,method-assign]
        torch.UntypedStorage.resize_ = counted  # type: ignore[assignment,method-assign]
        try:
            with self:
                yield self
        finally:
            FSDPParam.to_accumulated_grad_if_needed = keep  # type: ignore[method-assign]
            FSDPParam.accumulate_unsharded_grad_if_needed = add  # type: ignore[method-assign]
            torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]
            ShardingPropagator._propagate_tensor_meta_non_cached = learn  # type: ignore[method-assign]

    def __torch_dispatch__(
        self, func: Any, types: tuple[type, ...], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        from torch.distributed.tensor import DTensor

        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes again, with this rank's part
        if func._overloadpacket is torch.ops.aten._fused_adamw_:
            return None  # in place; PyTorch's stand-in for fake tensors makes copies that the kernel does not make
        out = func(*args, **(kwargs or {}))
        if self._aside:
            return out
        packet = func._overloadpacket
        if packet in flop_registry:
            self.flops += int(flop_registry[packet](*args, **(kwargs or {}), out_val=out))
        if func.namespace in ("c10d", "_c10d_functional", "c10d_functional"):
            self._collective(packet.__name__, args, out)
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self._take(x.untyped_storage(), self.phase)
        return out

    def mark(self, tensors: Iterable[Tensor | None], kind: str) -> None:
        """These are of that kind, and were so at the peak if they were there."""
        for x in tensors:
            if x is None:
                continue
            local = x.to_local() if hasattr(x, "to_local") else x
            storage = local.untyped_storage()
            self._take(storage, kind)
            number = self._number[storage]
            size, was = self._held[number]
            if was == kind:
                continue
            self.now[was] -= size
            self.now[kind] += size
            if number in self._peak_held:
                self.peak[was] -= size
                self.peak[kind] = self.peak.get(kind, 0) + size
            self._held[number] = size, kind

    def _take(self, storage: Any, kind: str) -> None:
        number = self._number.get(storage)
        if number is None:
            number = self._next = self._next + 1
            self._number[storage] = number
            weakref.finalize(storage, self._drop, number)
            self._held[number] = 0, kind
        size, kind = self._held[number][0], self._held[number][1] if self._held[number][0] else kind
        grown = storage.size() - size
        if not grown:
            return
        self._held[number] = storage.size(), kind
        self.now[kind] += grown
        if grown > 0 and sum(self.now.values()) > self._peak_total:
            self._peak_total = sum(self.now.values())
            self.peak = dict(self.now)
            self._peak_held = set(self._held)

    def _drop(self, number: int) -> None:
        size, kind = self._held.pop(number)
        self.now[kind] -= size

    def _collective(self, name: str, args: tuple[Any, ...], out: Any) -> None:
        op = NAMED.get(name)
        if op is None:
            return
        group = _group_of(args)
        ranks = tuple(torch.distributed.get_process_group_ranks(group))
        if len(ranks) == 1:
            return
        given, got = _sizes(name in OUTPUTS_FIRST, args, out)
        self.collectives.append(Collective(op, self.axis_of(op, ranks), len(ranks), wire(op, len(ranks), given, got)))


def _group_of(args: tuple[Any, ...]) -> Any:
    import torch.distributed as dist

    for x in args:
        if isinstance(x, torch.ScriptObject):
            try:
                return dist.ProcessGroup.unbox(x)
            except RuntimeError:  # it is the operation to reduce with
                continue
    name = next(x for x in reversed(args) if isinstance(x, str))
    return dist.distributed_c10d._resolve_process_group(name)  # type: ignore[arg-type,attr-defined]


def _sizes(outputs_first: bool, args: tuple[Any, ...], out: Any) -> tuple[int, int]:
    """Bytes that go in and that come out."""
    if outputs_first:
        return _bytes(args[1]), _bytes(args[0])
    return _bytes(args[0]), _bytes(out)


def _bytes(x: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tree_leaves(x) if isinstance(t, Tensor))
