"""Lineage: what was made from what. Read from manifests alone."""

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


def in_order(artifacts: Iterable[Artifact]) -> list[Artifact]:
    """All of them, what was made from others behind those."""
    listed = list(artifacts)
    order: dict[str, Artifact] = {}
    for artifact in listed:
        for other in (*ancestors(artifact, listed), artifact):
            order.setdefault(other.address, other)
    return list(order.values())
