"""The gate plan: what will count as done, signed before the work, so that no goal moves to where the result landed."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import write_atomic
from kiban.artifacts.hashing import canonical_json, sha256_bytes
from kiban.milestones import envelope as dsse
from kiban.milestones.settings import Milestone, Partner

PLAN = "gate-plan.dsse.json"
PREDICATE = "urn:kiban:gate-plan:v1"
KEYS = "keys"


def prepare(folder: Path, milestones: Sequence[Milestone], partners: Sequence[Partner], demo_keys: bool) -> Path:
    """Signs the plan if there is none, and checks the one that there is; gives its path.

    With `demo_keys` the partners' keys are made where they are missing.

    Raises:
        KibanError: if the milestones are not those of the signed plan, or keys are missing.
    """
    path = folder / PLAN
    criteria = [milestone.model_dump(mode="json") for milestone in milestones]
    if path.exists():
        _, content = dsse.payload_of(dsse.read_envelope(path), PREDICATE)
        if content["predicate"]["milestones"] != criteria:
            raise KibanError(
                f"{path}: the milestones in kiban.toml are not those that were signed at "
                f"{content['predicate']['signed_at']}; restore them, or remove that file to sign a new plan"
            )
        return path
    approvers = sorted({name for milestone in milestones for name in milestone.approvers.of})
    if demo_keys:
        dsse.make_demo_keys(folder / KEYS, approvers)
    keys = public_keys(folder, partners, approvers)
    predicate = {
        "milestones": criteria,
        "public_keys": keys,
        "demo_keys": demo_keys,
        "signed_at": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    content = dsse.statement(PREDICATE, {"milestones": sha256_bytes(canonical_json(criteria))}, predicate)
    write_atomic(path, dsse.sign(content, private_keys(folder, approvers)))
    return path


def public_keys(folder: Path, partners: Sequence[Partner], names: Sequence[str]) -> dict[str, str]:
    """Partner -> PEM of the public key that kiban.toml names (keys/<partner>.pem where it names none)."""
    given = {partner.name: partner for partner in partners}
    keys = {}
    for name in names:
        if name not in given:
            raise KibanError(f"approver '{name}': there is no such [[partner]]; partners: {', '.join(given) or 'none'}")
        keys[name] = dsse.read_public_key(folder / (given[name].public_key or f"{KEYS}/{name}.pem"))
    return keys


def private_keys(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Those private keys that are on this machine: partners sign where they are."""
    paths = {name: folder / KEYS / "private" / f"{name}.pem" for name in names}
    return {name: path for name, path in paths.items() if path.exists()}


def read_plan(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The envelope and the predicate of a signed plan."""
    envelope = dsse.read_envelope(path)
    return envelope, dsse.payload_of(envelope, PREDICATE)[1]["predicate"]
