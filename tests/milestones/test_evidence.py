"""Evidence with real keys and signatures: it verifies, and whatever is changed, it does not."""

import base64
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from kiban.artifacts.errors import KibanError
from kiban.artifacts.manifest import Code, Made, Manifest, Metric, address_of
from kiban.artifacts.rights import Rights
from kiban.artifacts.store import Artifact, Store
from kiban.milestones import envelope as dsse
from kiban.milestones.evidence import PREDICATE, bundle, verify
from kiban.milestones.plan import PLAN, prepare, private_keys, read_plan
from kiban.milestones.settings import Approvers, Criterion, Milestone, Partner

PARTNERS = [Partner(name=name) for name in ("content", "research", "robots")]


def milestone(**changes: Any) -> Milestone:
    values: dict[str, Any] = {
        "id": "M1",
        "title": "A model that predicts Japanese",
        "due": "2027-03-31",
        "tranche_jpy": 1_000_000_000,
        "approvers": Approvers(of=("content", "research", "robots"), quorum=2),
        "criteria": (
            Criterion(metric="evaluation.keigo.accuracy", at_least=0.7),
            Criterion(metric="evaluation.bpc", at_most=3.0),
        ),
    }
    return Milestone(**(values | changes))


def artifact(store: Store, kind: str, inputs: dict[str, str], metrics: dict[str, Metric]) -> Artifact:
    address = address_of(f"{kind}/1", {}, inputs, {})
    manifest = Manifest(
        schema=1,
        kind=kind,
        address=address,
        name=f"test/{kind}",
        inputs=inputs,
        settings={},
        code=Code(kiban="0", stage=f"{kind}/1"),
        rights=Rights(),
        files={},
        metrics=metrics,
        made=Made(at="2026-01-01T00:00:00Z", seconds=0.0, peak_bytes=0, hardware="test"),
    )
    with store.making(address) as out:
        return store.seal(out, manifest)


@pytest.fixture
def measured(tmp_path: Path) -> list[Artifact]:
    store = Store(tmp_path / "store")
    corpus = artifact(store, "corpus", {}, {})
    model = artifact(store, "model", {"corpus": corpus.address}, {"training.loss": Metric(value=3.0, unit="nats")})
    evaluation = artifact(
        store,
        "evaluation",
        {"model": model.address},
        {
            "evaluation.keigo.accuracy": Metric(value=0.75, unit="share", interval=(0.68, 0.81), n=200),
            "evaluation.bpc": Metric(value=2.5, unit="bits/character"),
        },
    )
    return [corpus, model, evaluation]


@pytest.fixture
def envelope(tmp_path: Path, measured: list[Artifact]) -> dict[str, Any]:
    return make(tmp_path, measured)


def make(folder: Path, measured: list[Artifact], signing: int = 3, **changes: Any) -> dict[str, Any]:
    goal = milestone(**changes)
    plan, _ = read_plan(prepare(folder, [goal], PARTNERS, demo_keys=True))
    keys = private_keys(folder, goal.approvers.of)
    signed, _ = bundle(goal, measured, plan, dict(sorted(keys.items())[:signing]))
    return json.loads(signed)


def test_it_verifies_and_judges_again(envelope: dict[str, Any]) -> None:
    report = verify(envelope)
    assert report.failure is None and report.verdict == "met"
    assert report.approvals == ["content", "research", "robots"]
    assert report.demo_keys and report.keys_from_bundle
    by_metric = {row["metric"]: row for row in report.criteria}
    assert by_metric["evaluation.keigo.accuracy"]["uncertain"] and not by_metric["evaluation.bpc"]["uncertain"]


def test_the_same_evidence_has_the_same_bytes(tmp_path: Path, measured: list[Artifact]) -> None:
    assert make(tmp_path, measured) == make(tmp_path, measured)


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [((0.7, 3.0), "met"), ((0.8, 3.0), "partly met"), ((0.7, 2.0), "partly met"), ((0.8, 2.0), "not met")],
)
def test_verdicts(tmp_path: Path, measured: list[Artifact], bounds: tuple[float, float], verdict: str) -> None:
    criteria = (
        Criterion(metric="evaluation.keigo.accuracy", at_least=bounds[0]),
        Criterion(metric="evaluation.bpc", at_most=bounds[1]),
    )
    assert verify(make(tmp_path, measured, criteria=criteria)).verdict == verdict


def test_what_was_not_measured_is_not_met(tmp_path: Path, measured: list[Artifact]) -> None:
    criteria = (Criterion(metric="rollout.pick.success_rate", at_least=0.5),)
    report = verify(make(tmp_path, measured, criteria=criteria))
    assert report.failure is None and report.verdict == "not met"
    assert report.criteria[0]["value"] is None


def test_trusted_keys_decide(tmp_path: Path, envelope: dict[str, Any]) -> None:
    keys = {p.name: dsse.read_public_key(tmp_path / "keys" / f"{p.name}.pem") for p in PARTNERS}
    assert verify(envelope, keys).failure is None
    dsse.make_demo_keys(tmp_path / "other", [p.name for p in PARTNERS])
    others = {p.name: dsse.read_public_key(tmp_path / "other" / f"{p.name}.pem") for p in PARTNERS}
    assert "plan is signed by 0 of 2" in str(verify(envelope, others).failure)
    del keys["robots"]
    assert "no key for the approver robots" in str(verify(envelope, keys).failure)


def test_a_quorum_counts_organisations_not_key_ids(tmp_path: Path, measured: list[Artifact]) -> None:
    alone = make(tmp_path, measured, signing=1)
    assert "approved by 1 of 2" in str(verify(alone).failure)
    alone["signatures"] *= 3
    assert "envelope cannot be read" in str(verify(alone).failure)  # a key id may stand there once
    alone["signatures"] = alone["signatures"][:1]
    pem = dsse.read_public_key(tmp_path / "keys" / "content.pem")
    same = {"content": pem, "research": pem, "robots": dsse.read_public_key(tmp_path / "keys" / "robots.pem")}
    assert "have the same public key" in str(verify(alone, same).failure)


def test_any_byte_of_the_payload_counts(envelope: dict[str, Any]) -> None:
    payload = envelope["payload"]
    for position in range(0, len(payload) - 4, max(1, len(payload) // 300)):
        other = "A" if payload[position] != "A" else "B"
        changed = envelope | {"payload": payload[:position] + other + payload[position + 1 :]}
        assert verify(changed).failure is not None, position


def forge(folder: Path, envelope: dict[str, Any], change: Any) -> dict[str, Any]:
    """The statement changed and signed anew by all partners: only the contents can give it away."""
    statement = json.loads(base64.b64decode(envelope["payload"]))
    change(statement)
    names = [partner.name for partner in PARTNERS]
    return json.loads(dsse.sign(statement, private_keys(folder, names)))


def change_figure(statement: dict[str, Any]) -> None:
    statement["predicate"]["criteria"][0]["value"] = 0.99


def change_verdict(statement: dict[str, Any]) -> None:
    statement["predicate"]["verdict"] = "not met"


def change_bound(statement: dict[str, Any]) -> None:
    statement["predicate"]["milestone"]["criteria"][0]["at_least"] = 0.1


def change_manifest(statement: dict[str, Any]) -> None:
    for address, encoded in statement["predicate"]["manifests"].items():
        content = base64.b64decode(encoded).replace(b"0.75", b"0.95")
        statement["predicate"]["manifests"][address] = base64.b64encode(content).decode()


def remove_input(statement: dict[str, Any]) -> None:
    address, name = next(
        (subject["name"].split()[1], subject["name"])
        for subject in statement["subject"]
        if subject["name"].startswith("test/corpus")
    )
    del statement["predicate"]["manifests"][address]
    statement["subject"] = [subject for subject in statement["subject"] if subject["name"] != name]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (change_figure, "not those that the manifests give"),
        (change_verdict, "not those that the manifests give"),
        (change_bound, "criteria were changed after signing"),
        (change_manifest, "not the one that the subjects name"),
        (remove_input, "lineage is broken: corpus, an input of test/model, is missing"),
        (lambda statement: statement["predicate"].pop("plan"), "not of the form"),
    ],
)
def test_forgeries_that_are_signed_are_found(
    tmp_path: Path, envelope: dict[str, Any], change: Any, expected: str
) -> None:
    assert expected in str(verify(forge(tmp_path, envelope, change)).failure)


def test_a_plan_of_fewer_signatures_is_refused(tmp_path: Path, envelope: dict[str, Any]) -> None:
    def strip(statement: dict[str, Any]) -> None:
        statement["predicate"]["plan"]["signatures"] = statement["predicate"]["plan"]["signatures"][:1]

    assert "plan is signed by 1 of 2" in str(verify(forge(tmp_path, envelope, strip)).failure)


def test_a_goal_cannot_move_after_signing(tmp_path: Path) -> None:
    path = prepare(tmp_path, [milestone()], PARTNERS, demo_keys=True)
    before = path.read_bytes()
    assert prepare(tmp_path, [milestone()], PARTNERS, demo_keys=True).read_bytes() == before
    easier = milestone(criteria=(Criterion(metric="evaluation.bpc", at_most=99.0),))
    with pytest.raises(KibanError, match="not those that were signed .* remove that file to sign a new plan"):
        prepare(tmp_path, [easier], PARTNERS, demo_keys=True)
    assert (tmp_path / PLAN).read_bytes() == before


def test_keys(tmp_path: Path) -> None:
    prepare(tmp_path, [milestone()], PARTNERS, demo_keys=True)
    assert (tmp_path / "keys" / "private" / "content.pem").stat().st_mode & 0o077 == 0
    assert "demo_keys" in (tmp_path / "keys" / "DEMO-KEYS.txt").read_text()
    assert "PRIVATE" not in (tmp_path / "keys" / "content.pem").read_text()
    with pytest.raises(KibanError, match="public key should be there"):
        prepare(tmp_path / "elsewhere", [milestone()], PARTNERS, demo_keys=False)
    (tmp_path / "bad.pem").write_text("no key")
    with pytest.raises(KibanError, match="public key of bad is not a PEM"):
        dsse.read_public_key(tmp_path / "bad.pem")


def test_an_envelope_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = prepare(tmp_path, [milestone()], PARTNERS, demo_keys=True)
    assert f"not {PREDICATE}" in str(verify(dsse.read_envelope(path)).failure)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(KibanError, match="not a DSSE envelope"):
        dsse.read_envelope(tmp_path / "x.json")


def test_impossible_milestones_are_refused() -> None:
    for changes, expected in [
        ({"approvers": {"of": ["content"], "quorum": 2}}, "cannot be reached"),
        ({"approvers": {"of": ["content", "content"], "quorum": 1}}, "named twice"),
        ({"criteria": [{"metric": "a"}]}, "give one of at_least and at_most"),
        ({"criteria": []}, "at least 1 item"),
    ]:
        with pytest.raises(ValueError, match=expected):
            milestone(**changes)


def test_deep_copies_are_not_needed_to_verify_twice(envelope: dict[str, Any]) -> None:
    before = deepcopy(envelope)
    assert verify(envelope) == verify(envelope)
    assert envelope == before
