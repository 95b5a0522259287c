"""Evidence: one file a milestone from which anyone can re-derive the verdict offline.

The statement holds the manifests themselves, byte for byte, and the signed plan. Its subjects are the digests of those
manifests. The verifier trusts no figure that is merely stated: it reads each from the manifest and judges again.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kiban.artifacts.errors import KibanError
from kiban.artifacts.hashing import canonical_json, sha256_bytes
from kiban.artifacts.lineage import ancestors
from kiban.artifacts.manifest import MANIFEST, Manifest, Metric
from kiban.artifacts.store import Artifact
from kiban.milestones import envelope as dsse
from kiban.milestones.plan import PREDICATE as PLAN_PREDICATE
from kiban.milestones.settings import Milestone
from kiban.milestones.verdict import judge

PREDICATE = "urn:kiban:milestone:v1"


def bundle(
    milestone: Milestone, measured: Sequence[Artifact], plan: dict[str, Any], private_keys: Mapping[str, Path]
) -> tuple[bytes, dict[str, Any]]:
    """The signed evidence for a milestone, and its judgement."""
    judgement = judge(milestone, metrics_of(a.manifest for a in measured))
    used = {row["metric"] for row in judgement["criteria"]}
    witnesses: dict[str, Artifact] = {}
    for artifact in measured:
        if used & set(artifact.metrics):
            witnesses |= {a.address: a for a in [*ancestors(artifact, measured), artifact]}
    contents = {address: (artifact.path / MANIFEST).read_bytes() for address, artifact in witnesses.items()}
    predicate = {
        "milestone": milestone.model_dump(mode="json"),
        **judgement,
        "plan": plan,
        "manifests": {address: base64.b64encode(content).decode() for address, content in contents.items()},
    }
    subjects = {f"{witnesses[address].name} {address}": sha256_bytes(content) for address, content in contents.items()}
    signed = dsse.sign(dsse.statement(PREDICATE, subjects, predicate), private_keys)
    return signed, judgement


def metrics_of(manifests: Any) -> dict[str, Metric]:
    """Every metric by its name.

    Raises:
        KibanError: if two artifacts measure the same metric.
    """
    found: dict[str, Metric] = {}
    for manifest in manifests:
        if manifest.kind == "source":
            continue  # figures of each source stand under the same names
        for name, metric in manifest.metrics.items():
            if name in found:
                raise KibanError(f"metric '{name}' stands in two manifests; a criterion must mean one of them")
            found[name] = metric
    return found


@dataclass
class Report:
    """What `verify` found: each check in order, and the first that failed."""

    milestone: str = ""
    title: str = ""
    verdict: str = ""
    demo_keys: bool = False
    keys_from_bundle: bool = True
    approvals: list[str] = field(default_factory=list)
    criteria: list[dict[str, Any]] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    failure: str | None = None


def verify(envelope: dict[str, Any], trusted: Mapping[str, str] | None = None) -> Report:
    """Checks a bundle. `trusted`: partner -> public PEM.

    Where it is None, the keys in the signed plan are taken, which proves that the bundle is consistent, and not who
    signed it.
    """
    report = Report(keys_from_bundle=trusted is None)
    try:
        _verify(envelope, trusted, report)
    except (KibanError, ValidationError) as error:
        report.failure = str(error).splitlines()[0]
    except (KeyError, TypeError, ValueError) as error:
        report.failure = f"the bundle is not of the form that it should have ({type(error).__name__}: {error})"
    return report


def _verify(envelope: dict[str, Any], trusted: Mapping[str, str] | None, report: Report) -> None:
    _, statement = dsse.payload_of(envelope, PREDICATE)
    predicate = statement["predicate"]
    milestone = Milestone.model_validate(predicate["milestone"])
    report.milestone, report.title = milestone.id, milestone.title

    _, plan_statement = dsse.payload_of(predicate["plan"], PLAN_PREDICATE)
    plan = plan_statement["predicate"]
    report.demo_keys = plan["demo_keys"]
    keys = dict(trusted) if trusted is not None else plan["public_keys"]
    absent = [name for name in milestone.approvers.of if name not in keys]
    if absent:
        raise KibanError(f"there is no key for the approver {absent[0]}; give the folder with all partners' keys")
    keys = {name: keys[name] for name in milestone.approvers.of}

    agreed = dsse.signers(predicate["plan"], keys)
    if len(agreed) < milestone.approvers.quorum:
        raise KibanError(f"the plan is signed by {len(agreed)} of {milestone.approvers.quorum} organisations needed")
    report.checks.append(f"the plan of {plan['signed_at']} is signed by {', '.join(agreed)}")

    planned = [m for m in plan["milestones"] if m["id"] == milestone.id]
    if planned != [predicate["milestone"]]:
        raise KibanError("the milestone is not the one that the plan has: its criteria were changed after signing")
    report.checks.append("the criteria are those of the signed plan")

    report.approvals = dsse.signers(envelope, keys)
    if len(report.approvals) < milestone.approvers.quorum:
        raise KibanError(
            f"approved by {len(report.approvals)} of {milestone.approvers.quorum} organisations needed: "
            "signatures are missing, or the bundle was changed after they were given"
        )
    report.checks.append(f"the evidence is signed by {', '.join(report.approvals)}")

    manifests = _manifests(statement)
    report.checks.append(f"{len(manifests)} manifests are those that were signed for, with their whole lineage")

    judgement = judge(milestone, metrics_of(manifests))
    stated = {"criteria": predicate["criteria"], "verdict": predicate["verdict"]}
    if canonical_json(judgement) != canonical_json(stated):
        raise KibanError("the figures or the verdict stated are not those that the manifests give")
    report.checks.append("every figure was read from its manifest again, and gives the same verdict")
    report.criteria, report.verdict = judgement["criteria"], judgement["verdict"]


def _manifests(statement: dict[str, Any]) -> list[Manifest]:
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    manifests: dict[str, Manifest] = {}
    for address, encoded in statement["predicate"]["manifests"].items():
        content = base64.b64decode(encoded, validate=True)
        manifest = Manifest.model_validate_json(content)
        name = f"{manifest.name} {address}"
        if manifest.address != address or subjects.pop(name, None) != sha256_bytes(content):
            raise KibanError(f"the manifest of {manifest.name} is not the one that the subjects name")
        manifests[address] = manifest
    if subjects:
        raise KibanError(f"the manifest of {min(subjects)} is missing")
    for manifest in manifests.values():
        for name, address in manifest.inputs.items():
            if address not in manifests:
                raise KibanError(f"the lineage is broken: {name}, an input of {manifest.name}, is missing")
    return list(manifests.values())
