"""Statements and signatures: in-toto Statement v1 in a DSSE envelope, Ed25519.

A threshold in DSSE counts key ids. People who rely on evidence count organisations: here a signature counts for the
organisation whose key it is, once, and two organisations may not have the same key.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner, SSlibKey

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_atomic
from kiban.artifacts.hashing import canonical_json

STATEMENT = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"

DEMO_MARK = """\
The keys in this folder were made by a run of Kiban, because kiban.toml says `demo_keys = true`. One machine holds
all of them, so a signature by them proves that the mechanism works, and nothing about who agreed. Evidence names them
demo keys.
"""


def make_demo_keys(folder: Path, partners: list[str]) -> None:
    """A key pair a partner, where there is none: <partner>.pem and private/<partner>.pem, with a note that says what
    they are."""
    for partner in partners:
        if (folder / f"{partner}.pem").exists():
            continue
        key = Ed25519PrivateKey.generate()
        private = folder / "private" / f"{partner}.pem"
        private.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        private.touch(mode=0o600)
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        write_atomic(folder / f"{partner}.pem", public)
        write_atomic(folder / "DEMO-KEYS.txt", DEMO_MARK)


def read_public_key(path: Path) -> str:
    """The PEM text of an Ed25519 public key.

    Raises:
        KibanError: if the file is missing or holds something else.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise KibanError(f"{path}: cannot be read ({error.strerror}); a partner's public key should be there") from None
    _key(path.stem, text)
    return text


def _key(partner: str, pem: str) -> SSlibKey:
    try:
        return SSlibKey.from_crypto(load_pem_public_key(pem.encode()))
    except (ValueError, UnsupportedAlgorithm):
        raise KibanError(f"the public key of {partner} is not a PEM public key; ask the partner for it again") from None


def sign(statement: dict[str, Any], private_keys: Mapping[str, Path]) -> bytes:
    """The envelope of `statement`, signed by each partner of `private_keys` (partner -> PEM file), as JSON."""
    envelope = Envelope(canonical_json(statement), PAYLOAD_TYPE, {})
    for partner in sorted(private_keys):
        try:
            key = load_pem_private_key(private_keys[partner].read_bytes(), None)
        except (OSError, ValueError) as error:
            raise KibanError(f"{private_keys[partner]}: no readable private key ({type(error).__name__})") from None
        envelope.sign(CryptoSigner(key))
    return json.dumps(envelope.to_dict(), indent=1, sort_keys=True).encode() + b"\n"


def statement(predicate_type: str, subjects: Mapping[str, str], predicate: dict[str, Any]) -> dict[str, Any]:
    """`subjects`: name -> sha256."""
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(subjects.items())],
        "predicateType": predicate_type,
        "predicate": predicate,
    }


def read_envelope(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not {"payload", "payloadType", "signatures"} <= set(content):
        raise KibanError(f"{path}: not a DSSE envelope (payload, payloadType, signatures)")
    return content


def payload_of(envelope: dict[str, Any], predicate_type: str) -> tuple[bytes, dict[str, Any]]:
    """The signed bytes, and the statement in them.

    Raises:
        KibanError: if it is not a statement of that type.
    """
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        content = json.loads(payload)
        found = (envelope["payloadType"], content["_type"], content["predicateType"])
    except (ValueError, KeyError, TypeError) as error:
        raise KibanError(f"the envelope's payload is no statement ({type(error).__name__})") from None
    if found != (PAYLOAD_TYPE, STATEMENT, predicate_type):
        raise KibanError(f"the envelope holds a statement of type {found[2]}, not {predicate_type}")
    return payload, content


def signers(envelope: dict[str, Any], keys: Mapping[str, str]) -> list[str]:
    """Which organisations of `keys` (partner -> public PEM) signed these bytes, each once, sorted.

    Raises:
        KibanError: if two organisations have the same key, or the envelope cannot be read.
    """
    owners: dict[str, str] = {}
    parsed: dict[str, SSlibKey] = {}
    for partner, pem in keys.items():
        key = _key(partner, pem)
        material = key.keyval["public"]
        if material in owners:
            raise KibanError(
                f"{owners[material]} and {partner} have the same public key; each organisation needs its own"
            )
        owners[material] = partner
        parsed[partner] = key
    try:
        opened = Envelope.from_dict(json.loads(json.dumps(envelope)))  # from_dict takes its argument apart
    except (ValueError, KeyError, TypeError) as error:
        raise KibanError(f"the envelope cannot be read ({type(error).__name__})") from None
    found = []
    for partner, key in parsed.items():
        signature = opened.signatures.get(key.keyid)
        if signature is None:
            continue
        try:
            key.verify_signature(signature, opened.pae())
        except UnverifiedSignatureError:
            continue
        found.append(partner)
    return sorted(found)
