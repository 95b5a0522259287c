"""Pipeline schedules as tables: which rank does what in which order. No torch.

P ranks, each with `virtual` stages: rank r holds stages r, r + P, r + 2 P ... Actions are F (forward), B (backward),
and where the backward pass is split, I (gradient of the inputs, which the stage before waits for) and W (gradient of
the weights, which nobody waits for, so that it fills the bubbles).
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from kiban.artifacts.errors import KibanError

Kind = Literal["F", "B", "I", "W"]
ScheduleName = Literal["1f1b", "zero-bubble"]


class Action(NamedTuple):
    kind: Kind
    stage: int
    micro: int  # which micro-batch


Table = list[list[Action]]  # for each rank, in order


def schedule(name: ScheduleName, ranks: int, virtual: int, micros: int) -> Table:
    """`1f1b` (PipeDream-Flush, arXiv 2006.09503), interleaved if `virtual` > 1 (arXiv 2104.04473, section 2.2);
    `zero-bubble` has the same order of F and I, and W where a rank would wait else, or where it would hold more than
    1F1B's first rank does (ZB-H1, arXiv 2401.10241, section 2).

    Raises:
        KibanError: if stages are to interleave and the micro-batches are no multiple of the ranks.
    """
    if virtual > 1 and micros % ranks:
        raise KibanError(
            f"virtual = {virtual}: interleaved stages need micro-batches in multiples of pipeline = {ranks}, and a "
            f"step has {micros}; change the batch or the micro-batch, or set virtual = 1"
        )
    orders = [list(_one_forward_one_backward(rank, ranks, virtual, micros)) for rank in range(ranks)]
    if name == "1f1b":
        return orders
    most = [_warmup(0, ranks, virtual, micros) + 1] * ranks
    return _filled(orders, virtual * ranks, most)


def _warmup(rank: int, ranks: int, virtual: int, micros: int) -> int:
    """Forward passes before the first backward pass, less one."""
    ahead = ranks - 1 - rank if virtual == 1 else 2 * (ranks - 1 - rank) + (virtual - 1) * ranks
    return min(ahead, virtual * micros - 1)


def _one_forward_one_backward(rank: int, ranks: int, virtual: int, micros: int) -> Iterator[Action]:
    """A rank takes as many micro-batches as there are ranks through one of its stages before it turns to the next."""
    rounds = [range(start, min(start + ranks, micros)) for start in range(0, micros, ranks)]
    stages = [rank + ranks * v for v in range(virtual)]
    forward = [Action("F", stage, m) for some in rounds for stage in stages for m in some]
    backward = [Action("B", stage, m) for some in rounds for stage in reversed(stages) for m in some]
    warmup = _warmup(rank, ranks, virtual, micros)
    yield from forward[:warmup]
    for ahead, back in zip(forward[warmup:], backward, strict=False):
        yield from (ahead, back)
    yield from backward[len(forward) - warmup :]


def _filled(orders: Table, stages: int, most: list[int]) -> Table:
    """B split into I and W. Simulated in steps of one action each, as all cost about the same."""
    waiting = [[a if a.kind == "F" else Action("I", a.stage, a.micro) for a in order] for order in orders]
    pending: Table = [[] for _ in orders]  # W to do
    held = [0] * len(orders)  # forward passes whose activations are still there
    done: set[Action] = set()
    table: Table = [[] for _ in orders]
    while any(waiting) or any(pending):
        now: list[Action] = []
        for rank, order in enumerate(waiting):
            following = order[0] if order else None
            if following and _ready(following, done, stages) and (following.kind == "I" or held[rank] < most[rank]):
                now.append(order.pop(0))
                if following.kind == "I":
                    pending[rank].append(Action("W", following.stage, following.micro))
                else:
                    held[rank] += 1
            elif pending[rank]:
                now.append(pending[rank].pop(0))
                held[rank] -= 1
            else:
                continue
            table[rank].append(now[-1])
        assert now, "the order of actions waits for itself"
        done.update(now)
    return table


def _ready(action: Action, done: set[Action], stages: int) -> bool:
    return all(any(a in done for a in alternatives) for alternatives in needs(action, stages))


def needs(action: Action, stages: int) -> list[tuple[Action, ...]]:
    """What must be done before; of each tuple, one. `stages` is the number of all."""
    kind, stage, micro = action
    if kind == "F":
        return [(Action("F", stage - 1, micro),)] if stage else []
    if kind == "W":
        return [(Action("I", stage, micro),)]
    before: list[tuple[Action, ...]] = [(Action("F", stage, micro),)]
    if stage + 1 < stages:
        before.append((Action("B", stage + 1, micro), Action("I", stage + 1, micro)))
    return before
