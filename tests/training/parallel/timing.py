"""How long a pipeline's table takes, where a rank waits, and how much it holds."""

from kiban.training.pipeline_schedule import Action, Kind, Table, needs

# Of a layer, in forward passes: the two products of the backward pass cost one each.
DURATIONS: dict[Kind, int] = {"F": 1, "B": 2, "I": 1, "W": 1}


def timeline(table: Table) -> list[list[tuple[Action, int, int]]]:
    """Each rank's actions with their start and end, if all stages cost the same and messages nothing; DURATIONS are
    those of a stage."""
    stages = 1 + max(a.stage for order in table for a in order)
    ended: dict[Action, int] = {}
    times: list[list[tuple[Action, int, int]]] = [[] for _ in table]
    left = [list(order) for order in table]
    while any(left):
        moved = False
        for rank, order in enumerate(left):
            while order and all(any(a in ended for a in some) for some in needs(order[0], stages)):
                action = order.pop(0)
                free = times[rank][-1][2] if times[rank] else 0
                met = [max(ended[a] for a in some if a in ended) for some in needs(action, stages)]
                start = max([free, *met])
                ended[action] = start + DURATIONS[action.kind]
                times[rank].append((action, start, ended[action]))
                moved = True
        assert moved, "the order of actions waits for itself"
    return times


def bubble(table: Table) -> int:
    """The time that the rank with the least to wait waits, from the start to the end of all."""
    times = timeline(table)
    end = max(rank[-1][2] for rank in times)
    return end - max(sum(stop - start for _, start, stop in rank) for rank in times)


def most_held(order: list[Action]) -> int:
    """The most forward passes whose activations a rank keeps at one time."""
    held = most = 0
    for action in order:
        held += {"F": 1, "I": 0, "B": -1, "W": -1}[action.kind]
        most = max(most, held)
    return most
