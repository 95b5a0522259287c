"""A partner's LeRobot dataset as a programme's demonstrations: under its terms, and only if it is of the robot."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.artifacts.rights import Rights
from kiban.artifacts.stage import Outcome, Settings, stage
from kiban.artifacts.store import Artifact, Store
from kiban.programme import graph
from kiban.programme.runner import Node, Step, make, plan
from kiban.programme.settings import load
from kiban.robotics.conversion import convert
from kiban.robotics.dataset import Dataset
from kiban.robotics.dataset_terms import Terms, read
from kiban.robotics.demonstrations import collect
from kiban.robotics.embodiment import Embodiment
from kiban.robotics.layout import V21

QUIET = Progress(quiet=True)

PROGRAMME = """
[programme]
name = "imported"
[[partner]]
name = "content"
[[partner]]
name = "plant"
[[source]]
name = "demo"
path = "kiban:demo"
format = "demo"
partner = "content"
licence = "CC0-1.0"
uses = ["pretrain", "evaluate", "generate", "redistribute", "serve"]
[robot]
dataset = "pushes"
partner = "plant"
licence = "CC-BY-4.0"
uses = ["pretrain", "evaluate"]
residency = ["JP"]
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, embodiment: Embodiment) -> Path:
    """Two episodes of the tabletop's arm, in the older layout and without terms, as others would have them."""
    folder = tmp_path_factory.mktemp("recorded")
    collect(embodiment, ("reach",), 2, 0, folder / "new", folder / "work", QUIET)
    convert([folder / "new"], folder / "pushes", V21, None, QUIET)
    (folder / "pushes/meta/kiban.json").unlink()
    return folder / "pushes"


def programme(folder: Path, recorded: Path, text: str = PROGRAMME) -> list[Node]:
    if not (folder / "pushes").exists():
        shutil.copytree(recorded, folder / "pushes")
    (folder / "kiban.toml").write_text(text, encoding="utf-8")
    return [node for node in graph.nodes(load(folder)) if node.name == "demonstrations"]


def planned(folder: Path, recorded: Path, text: str = PROGRAMME) -> Step:
    [step] = plan(programme(folder, recorded, text), Store(folder / ".kiban"))
    return step


def made(folder: Path, recorded: Path) -> Artifact:
    store = Store(folder / ".kiban")
    [artifact] = make("test", plan(programme(folder, recorded), store), store, QUIET)
    return artifact


def test_a_dataset_becomes_the_demonstrations_under_its_terms(tmp_path: Path, recorded: Path) -> None:
    artifact = made(tmp_path, recorded)
    granted = Rights(
        uses=frozenset({"pretrain", "evaluate"}),
        residency=frozenset({"JP"}),
        obligations=frozenset({"attribution:pushes"}),
    )
    assert artifact.rights == granted
    assert artifact.settings["dataset"]["partner"] == "plant"
    assert set(artifact.manifest.external) == {
        path.relative_to(recorded).as_posix() for path in recorded.rglob("*") if path.is_file()
    }
    there, ours = Dataset(recorded), Dataset(artifact.path / "dataset")
    assert (ours.frames("action") == there.frames("action")).all() and ours.tasks == there.tasks
    assert artifact.metrics["demonstrations.episodes"].value == 2
    assert artifact.metrics["demonstrations.frames"].value == len(there)
    carried = read(artifact.path / "dataset")
    assert carried is not None and (carried.partners, carried.rights) == (("plant",), granted)
    address = artifact.address
    (tmp_path / "pushes/meta/modality.json").write_text("{}")
    assert planned(tmp_path, recorded).address != address  # other files, another artifact


def test_a_use_that_the_partner_does_not_grant_is_refused_before_anything_runs(tmp_path: Path, recorded: Path) -> None:
    @stage("policy", inputs=("demonstrations",), use="finetune")
    def tuned(settings: Settings, demonstrations: Artifact, out: Path, progress: Progress) -> Outcome:
        raise AssertionError("ran")

    nodes = [*programme(tmp_path, recorded), Node("policy", tuned, Settings(), {"demonstrations": "demonstrations"})]
    with pytest.raises(KibanError, match="demonstrations.*finetune|finetune.*demonstrations"):
        plan(nodes, Store(tmp_path / ".kiban"))


def test_what_the_dataset_itself_does_not_grant_cannot_be_claimed(tmp_path: Path, recorded: Path) -> None:
    shutil.copytree(recorded, tmp_path / "pushes")
    Terms(partners=("plant",), rights=Rights(uses=frozenset({"evaluate"}))).write(tmp_path / "pushes")
    with pytest.raises(KibanError, match="`uses` has 'pretrain', which the terms in the dataset do not grant"):
        planned(tmp_path, recorded)
    narrow = PROGRAMME.replace('uses = ["pretrain", "evaluate"]', 'uses = ["evaluate"]')
    assert planned(tmp_path, recorded, narrow).rights.uses == {"evaluate"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('partner = "plant"\nlicence', "licence", "'partner' is missing"),
        ('partner = "plant"\nlicence', 'partner = "nobody"\nlicence', r"\[robot\] dataset: there is no .* 'nobody'"),
        ('licence = "CC-BY-4.0"', 'licence = "free"', "licence 'free' is not known"),
        ('dataset = "pushes"\n', "", "'partner' is for a `dataset` from elsewhere"),
        ('dataset = "pushes"', 'dataset = "pushes"\nepisodes = 3', "'episodes' are recorded"),
        ('uses = ["pretrain", "evaluate"]\nres', 'uses = ["sell"]\nres', "use 'sell' is not known"),
        ('dataset = "pushes"', 'dataset = "pulls"', "dataset 'pulls': there is no such folder"),
    ],
)
def test_settings_are_checked(tmp_path: Path, recorded: Path, old: str, new: str, said: str) -> None:
    assert old in PROGRAMME
    with pytest.raises(KibanError, match=said):
        planned(tmp_path, recorded, PROGRAMME.replace(old, new))


def test_another_robots_dataset_is_refused(tmp_path: Path, recorded: Path) -> None:
    shutil.copytree(recorded, tmp_path / "pushes")
    info = tmp_path / "pushes/meta/info.json"
    content = json.loads(info.read_text())
    names = content["features"]["observation.state"]["names"]
    content["features"]["observation.state"]["names"] = ["left.x", *names[1:]]
    info.write_text(json.dumps(content))
    with pytest.raises(KibanError, match="'observation.state' is .left.x, .*; tabletop-arm has .base_yaw"):
        made(tmp_path, recorded)
    del content["features"]["observation.images.wrist"]
    info.write_text(json.dumps(content))
    with pytest.raises(KibanError, match="no camera 'wrist', which tabletop-arm has; it has front"):
        made(tmp_path, recorded)


def test_a_spoilt_dataset_is_refused_and_leaves_nothing(tmp_path: Path, recorded: Path) -> None:
    shutil.copytree(recorded, tmp_path / "pushes")
    path = tmp_path / "pushes/data/chunk-000/episode_000001.parquet"
    table = pq.read_table(path)
    rows = table["observation.state"].to_pylist()
    rows[2][7] = float("nan")
    where = table.schema.get_field_index("observation.state")
    pq.write_table(table.set_column(where, "observation.state", pa.array(rows, pa.list_(pa.float32(), 10))), path)
    with pytest.raises(
        KibanError, match=r"episode_000001.parquet: episode 1: 'observation.state' \(tool.x\) is nan at"
    ):
        made(tmp_path, recorded)
    assert not list((tmp_path / ".kiban/artifacts").rglob("*.parquet"))
