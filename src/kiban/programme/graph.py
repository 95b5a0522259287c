"""The stages of a programme, in order: the table of contents of the system.

    sources -> corpus (-> mixture) -> tokenizer -> tokens -> model -> export -> evaluation
                              demonstrations -> policy -> rollout
                                          all of them -> milestones

No stage knows this graph.
"""

import datetime
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from kiban.artifacts.errors import KibanError
from kiban.artifacts.store import Store, open_store
from kiban.corpus.addresses import is_url
from kiban.corpus.mixture import mixture
from kiban.corpus.sources import source
from kiban.corpus.stage import corpus, expired
from kiban.evaluation.stage import evaluation
from kiban.milestones.stage import MilestonesSettings, milestones
from kiban.programme.runner import Node
from kiban.programme.settings import Programme, resolve
from kiban.robotics.stage import demonstrations, policy, rollout
from kiban.tokenizer.stage import tokenizer, tokens
from kiban.training.export import ExportSettings, export
from kiban.training.stage import model


def nodes(programme: Programme) -> list[Node]:
    """Every stage of the programme with its settings and inputs.

    Raises:
        KibanError: if there is no source, or a path cannot be resolved.
    """
    if not programme.sources:
        raise KibanError(f"{programme.folder}/kiban.toml: there is no [[source]]; add at least one")
    locations = {
        s.name: str(
            store_of(programme).root / "downloads" / str(s.sha256) / PurePosixPath(urlsplit(s.path).path).name
            if is_url(s.path)
            else resolve(s.path, programme.folder, f"source '{s.name}'")
        )
        for s in programme.sources
        if not s.path.startswith("kiban:")
    }
    sources = [
        Node(f"source.{s.name}", source, s.model_copy(update={"location": locations.get(s.name)}), {})
        for s in programme.sources
    ]
    follows = {
        "locations": locations,
        "folder": str(programme.folder),
        "expired": expired(programme.sources, datetime.date.today()),
    }
    corpus_settings = programme.corpus.model_copy(update=follows)
    mix = [] if programme.mix is None else [Node("mixture", mixture, programme.mix, {"corpus": "corpus"})]
    text = "mixture" if mix else "corpus"
    graph = [
        *sources,
        Node("corpus", corpus, corpus_settings, {"sources": tuple(node.name for node in sources)}),
        *mix,
        Node("tokenizer", tokenizer, programme.tokenizer, {"corpus": text}),
        Node("tokens", tokens, programme.tokens, {"corpus": text, "tokenizer": "tokenizer"}),
        Node("model", model, programme.training, {"tokens": "tokens", "tokenizer": "tokenizer"}),
        Node("export", export, ExportSettings(), {"model": "model", "tokenizer": "tokenizer"}),
        Node("evaluation", evaluation, programme.evaluation, {"export": "export", "corpus": "corpus"}),
    ]
    if programme.robot is not None:
        robot = programme.robot
        dataset = resolve(robot.dataset, programme.folder, "[robot] dataset") if robot.dataset else None
        graph += [
            Node("demonstrations", demonstrations, robot.demonstrations(dataset), {}),
            Node("policy", policy, robot.policy(), {"demonstrations": "demonstrations", "export": "export"}),
            Node("rollout", rollout, robot.rollout(), {"policy": "policy", "export": "export"}),
        ]
    if programme.milestones:
        settings = MilestonesSettings(
            milestones=programme.milestones, partners=programme.partners, folder=str(programme.folder)
        )
        graph.append(Node("milestones", milestones, settings, {"measured": tuple(node.name for node in graph)}))
    return graph


def store_of(programme: Programme) -> Store:
    written = programme.programme.store
    location = written if "://" in written else str(resolve(written, programme.folder, "[programme] store"))
    return open_store(location, programme.folder)


def node_named(graph: list[Node], name: str) -> Node:
    """Raises KibanError if the programme has no such stage."""
    for node in graph:
        if node.name == name:
            return node
    raise KibanError(f"--to {name}: this programme has no such stage; stages: {', '.join(node.name for node in graph)}")


def up_to(graph: list[Node], name: str) -> list[Node]:
    """What `name` needs, and itself, in order."""
    wanted = {node_named(graph, name).name}
    for node in reversed(graph):
        if node.name in wanted:
            wanted.update(node.parents().values())
    return [node for node in graph if node.name in wanted]
