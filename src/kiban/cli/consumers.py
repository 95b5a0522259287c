"""Which artifacts consumed which documents: in a corpus, in packed tokens, in the steps of a training run, or through a
checkpoint that another run went on from."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json
from kiban.artifacts.lineage import in_order
from kiban.artifacts.order import position_of
from kiban.artifacts.store import Artifact, Store
from kiban.corpus.selection import Selection

if TYPE_CHECKING:
    from kiban.tokenizer.packing import Place, TokenStore

CONSUMED, NOT_REACHED, INHERITED = "consumed", "in a shard, not reached", "inherited from a checkpoint"


@dataclass(frozen=True)
class Order:
    """What of packed tokens a run reads, and how far it is: `sequences` positions of the order that `seed` gives (see
    artifacts.order), `excluded` the first and last of steps without effect."""

    seed: int
    num_sequences: int
    sequence_length: int
    batch_sequences: int
    sequences: int
    excluded: list[list[int]]

    def steps(self, places: "Iterable[Place]") -> list[int]:
        """The optimiser steps, from 1 on, that read any token of these documents."""
        found: set[int] = set()
        for place in places:
            first, last = place.start // self.sequence_length, (place.start + place.length - 1) // self.sequence_length
            found.update(range(first, min(last, self.num_sequences - 1) + 1))
        epochs = range(-(-self.sequences // self.num_sequences))
        positions = (position_of(self.seed, s, epoch, self.num_sequences) for s in found for epoch in epochs)
        steps = {position // self.batch_sequences + 1 for position in positions if position < self.sequences}
        for start, end in self.excluded:
            steps -= set(range(start, end + 1))
        return sorted(steps)


def order_of(model: Artifact) -> Order:
    """What the run that made `model` read."""
    said = model.manifest.consumed
    return Order(
        said["seed"],
        said["num_sequences"],
        said["sequence_length"],
        said["batch_sequences"],
        said["sequences"][1],
        said.get("excluded_steps", []),
    )


def _order_of_run(state: dict[str, Any], tokens: int) -> Order:
    """What a run of which `state` is the last checkpoint has read of so many packed tokens."""
    settings, position = state["identity"]["settings"], state["position"]
    length, batch = settings["sequence_length"], settings["batch_sequences"]
    read = position["step"] * batch
    return Order(settings["seed"], (tokens - 1) // length, length, batch, read, position["excluded"])


def kept_checkpoints(run: Path) -> list[int]:
    """The steps after which a checkpoint of the run in that folder is kept."""
    return sorted(int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/step-*"))


@dataclass(frozen=True)
class Consumer:
    """An artifact, or a run outside the store, and what it has of the documents that were asked for."""

    name: str
    kind: str
    address: str
    relation: str
    detail: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass
class Asked:
    """The documents that a selection means in one corpus: ids of those in its shards, of those held back and of those
    that it left out; the last with the reason."""

    kept: dict[str, dict[str, str]] = field(default_factory=dict)
    held_back: dict[str, dict[str, str]] = field(default_factory=dict)
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)


def asked(corpus: Artifact, meant: Selection) -> Asked:
    """Reads the ids, sources and addresses of all documents of a corpus (or a mixture), and no text."""
    found = Asked()
    shards = sorted((corpus.path / "shards").glob("*.parquet"))
    parts = [(path, found.kept) for path in shards]
    parts += [(corpus.path / "held_back.parquet", found.held_back), (corpus.path / "ledger.parquet", found.left_out)]
    for path, into in parts:
        if path.exists():
            for row in _rows(path):
                if meant.why(row["source"], row["id"], row["uri"]):
                    into[row["id"]] = row
    return found


def _rows(path: Path) -> Iterator[dict[str, str]]:
    import pyarrow.parquet as pq

    columns = ["id", "source", "uri", "title", *(["reason", "detail"] if path.name == "ledger.parquet" else [])]
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=columns):
            yield from batch.to_pylist()


def copies(corpus: Artifact, kept: Iterable[str]) -> list[dict[str, str]]:
    """What the corpus left out as a duplicate of these documents: it would come in without them."""
    of = {f"of {identity}" for identity in kept}
    rows = _rows(corpus.path / "ledger.parquet")
    return [row for row in rows if row["reason"].startswith("duplicate") and row["detail"] in of]


class Consumers:
    """Those in a store, and the runs that are under way or were made outside of it (`runs`: their folders)."""

    def __init__(self, store: Store, meant: Selection, runs: Iterable[Path] = ()) -> None:
        self.artifacts = in_order(store.all())
        self.meant = meant
        staged = {path.parents[1] for path in store.root.glob("staging/*/.work/checkpoints/step-*")}
        self.runs = [*sorted(staged), *runs]
        self.asked: dict[str, Asked] = {}  # by address of the corpus
        self.places: dict[str, list[Place]] = {}  # by address of the tokens
        self.found: dict[str, Consumer] = {}  # by address

    def all(self) -> list[Consumer]:
        """Every one that has to do with the documents; nothing of those that have not.

        Raises:
            KibanError: if a folder in `runs` holds no run.
        """
        for artifact in self.artifacts:
            if consumer := self._of(artifact):
                self.found[artifact.address] = consumer
        return [*self.found.values(), *self._runs()]

    def _of(self, artifact: Artifact) -> Consumer | None:
        def consumer(relation: str, detail: str, **figures: Any) -> Consumer:
            return Consumer(artifact.name, artifact.kind, artifact.address, relation, detail, figures)

        if (artifact.path / "shards").is_dir():
            found = self.asked[artifact.address] = asked(artifact, self.meant)
            kept, held = len(found.kept), len(found.held_back)
            if not kept and not held:
                return None
            return consumer(CONSUMED, f"{kept} documents in its shards, {held} held back", kept=kept, held_back=held)
        if artifact.kind == "source":
            name = artifact.settings["name"]
            return (
                consumer(CONSUMED, "is that source (its files' digests and terms)")
                if name in self.meant.sources
                else None
            )
        if artifact.kind == "tokens":
            return self._tokens(artifact, consumer)
        if artifact.kind == "model":
            return self._model(artifact, consumer)
        return self._made_from(artifact, consumer)

    def _tokens(self, artifact: Artifact, consumer: Any) -> Consumer | None:
        ids = {identity for address in artifact.manifest.inputs.values() for identity in self._kept(address)}
        if not ids:
            return None
        store = self._store(artifact)
        places = self.places[artifact.address] = store.places_of(ids)
        tokens = sum(place.length for place in places)
        shards = sorted({store.shard_of(at) for p in places for at in (p.start, p.start + p.length - 1)})
        return consumer(CONSUMED, f"{tokens} tokens in {', '.join(shards)}", tokens=tokens, shards=shards)

    def _kept(self, address: str) -> Iterable[str]:
        return self.asked[address].kept if address in self.asked else ()

    def _store(self, tokens: Artifact) -> "TokenStore":
        from kiban.tokenizer.packing import TokenStore

        return TokenStore.open(tokens.path)

    def _model(self, artifact: Artifact, consumer: Any) -> Consumer | None:
        places = self.places.get(artifact.manifest.inputs.get("tokens", ""))
        if not places:
            return None
        relation, detail, figures = _read(order_of(artifact), places, kept_checkpoints(artifact.path))
        return consumer(relation, detail, **figures)

    def _made_from(self, artifact: Artifact, consumer: Any) -> Consumer | None:
        """By the worst of what its inputs have: one that stands for a trained model inherits."""
        above = [(a, self.found[a]) for a in artifact.manifest.inputs.values() if a in self.found]
        read = [c for a, c in above if a in self.asked]
        if artifact.kind == "tokenizer":
            return consumer(CONSUMED, "learnt from that corpus") if any(c.figures["kept"] for c in read) else None
        models = [c for _, c in above if c not in read and c.kind not in ("source", "tokenizer", "tokens")]
        through = [c for c in models if c.relation in (CONSUMED, INHERITED)]
        if through:
            return consumer(INHERITED, f"from {', '.join(sorted(c.name for c in through))}")
        if any(c.figures["held_back"] for c in read):
            return consumer(CONSUMED, "measured on held-back documents")
        behind = [c for c in models if c.relation == NOT_REACHED]
        return consumer(NOT_REACHED, f"from {', '.join(sorted(c.name for c in behind))}") if behind else None

    # Runs outside of the store

    @cached_property
    def _fingerprints(self) -> dict[str, Artifact]:
        """All packed tokens in the store, by what a run calls its data."""
        return {self._store(a).fingerprint: a for a in self.artifacts if a.kind == "tokens"}

    def _runs(self) -> list[Consumer]:
        if not self.runs:
            return []
        from kiban.training.checkpoint import STATE, digest_of

        states = {}
        for run in self.runs:
            states[run] = [read_json(path / STATE) for path in sorted(run.glob("checkpoints/step-*"))]
            if not states[run]:
                raise KibanError(f"--run {run}: holds no checkpoints of a run (checkpoints/step-*); give its folder")
        started = {state["identity"]["initial"] for found in states.values() for state in found}
        weights: dict[str, str] = {}  # digest of weights that a run may have started from -> whose they are
        if started - {None}:
            exports = [(a.path, a.name) for a in self.artifacts if a.kind == "export" and self._tainted(a.address)]
            weights = {digest_of(path): name for path, name in exports}
        found = []
        for run, saved in states.items():
            identity = saved[-1]["identity"]
            tokens = self._fingerprints.get(identity["data"])
            places = self.places.get(tokens.address) if tokens else None
            relation, detail = "", ""
            figures: dict[str, Any] = {}
            if places and tokens:
                order = _order_of_run(saved[-1], self._store(tokens).total)
                relation, detail, figures = _read(order, places, [state["position"]["step"] for state in saved])
            if relation != CONSUMED and identity["initial"] in weights:
                relation, detail = INHERITED, f"started from {weights[identity['initial']]}"
            if relation:
                found.append(Consumer(str(run), "run", identity["data"], relation, detail, figures))
        return found

    def _tainted(self, address: str) -> bool:
        return address in self.found and self.found[address].relation in (CONSUMED, INHERITED)


def _read(order: Order, places: "Iterable[Place]", checkpoints: list[int]) -> tuple[str, str, dict[str, Any]]:
    """The relation of a run to documents at these places, in words and figures."""
    steps = order.steps(places)
    done = order.sequences // order.batch_sequences
    if not steps:
        return NOT_REACHED, f"packed, but read by none of its {done} steps", {"steps": 0}
    reached = [step for step in checkpoints if step >= steps[0]]
    detail = f"read in {len(steps)} of {done} steps, first in step {steps[0]}"
    if checkpoints:
        clean = len(checkpoints) - len(reached)
        detail += f"; checkpoints from step {reached[0]} on hold it" if reached else ""
        detail += f", {clean} before it do not" if clean else ""
    return CONSUMED, detail, {"steps": len(steps), "first_step": steps[0], "checkpoints": reached}
