"""Lineage: what an artifact was made from, and what was made from it. Read from manifests alone."""

from collections.abc import Iterable

from kiban.artifacts.store import Artifact


def ancestors(artifact: Artifact, among: Iterable[Artifact]) -> list[Artifact]:
    """Everything that `artifact` was made from, inputs before what was made from them, without itself."""
    by_address = {other.address: other for other in among}
    order: dict[str, Artifact] = {}

    def visit(address: str) -> None:
        if address in order or address not in by_address:
            return
        for parent in by_address[address].manifest.inputs.values():
            visit(parent)
        order[address] = by_address[address]

    for parent in artifact.manifest.inputs.values():
        visit(parent)
    return list(order.values())


def descendants(artifact: Artifact, among: Iterable[Artifact]) -> list[Artifact]:
    """Everything that was made from `artifact`, directly or not, in the order of `among`."""
    others = list(among)
    reached = {artifact.address}
    grown = True
    while grown:
        grown = False
        for other in others:
            if other.address not in reached and reached & set(other.manifest.inputs.values()):
                reached.add(other.address)
                grown = True
    return [other for other in others if other.address in reached and other.address != artifact.address]
