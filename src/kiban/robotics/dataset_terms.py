"""The terms that a dataset carries in itself, `meta/kiban.json`: what it may be used for, and what it was made from.

Other readers of the format pass the file over. A dataset without one came from elsewhere: whoever brings it in says
under which terms.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json, write_json
from kiban.artifacts.hashing import canonical_json, sha256_bytes, sha256_file
from kiban.artifacts.rights import Rights, meet
from kiban.robotics.layout import TERMS


class Terms(BaseModel):
    """`partners` gave the data, under `licences`. `made` says how: by whom, with which robot and seed, or `from` which
    datasets (name -> digest). Our own recordings have no partner, and every use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partners: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    rights: Rights = Rights()
    made: dict[str, Any] = {}

    def write(self, folder: Path) -> None:
        write_json(folder / TERMS, self.model_dump(mode="json"))


def read(folder: Path) -> Terms | None:
    """Of the dataset in `folder`; None if it carries none. Raises KibanError if they cannot be read."""
    path = folder / TERMS
    if not path.exists():
        return None
    try:
        return Terms.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise KibanError(f"{path}: {where}: {first['msg']}; restore it") from None


def require(folder: Path, use: str) -> None:
    """Raises KibanError if the dataset carries terms that do not grant `use`. Of one without, its user knows."""
    terms = read(folder)
    if terms is not None and not terms.rights.allows(use):
        granted = ", ".join(sorted(terms.rights.uses)) or "nothing"
        until = f" until {terms.rights.expires}" if terms.rights.expires else ""
        raise KibanError(f"{folder}: its terms ({TERMS}) do not grant '{use}'; they grant {granted}{until}")


def joined(terms: Mapping[Path, Terms | None]) -> Terms | None:
    """Those of a dataset made from `terms`' keys: what all of them grant. None if none of them carries any.

    Raises:
        KibanError: if some carry terms and some do not.
    """
    known = {folder: each for folder, each in terms.items() if each is not None}
    if not known:
        return None
    for folder, each in terms.items():
        if each is None:
            raise KibanError(
                f"{folder}: carries no terms ({TERMS}), while others do; say them with --partner --licence --use"
            )
    return Terms(
        partners=tuple(dict.fromkeys(name for each in known.values() for name in each.partners)),
        licences=tuple(dict.fromkeys(name for each in known.values() for name in each.licences)),
        rights=meet(each.rights for each in known.values()),
        made={"from": {folder.name: digest(folder) for folder in known}},
    )


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def digest(folder: Path) -> str:
    """Of all files of the dataset, by name."""
    digests = {path.relative_to(folder).as_posix(): sha256_file(path) for path in files(folder)}
    return "sha256:" + sha256_bytes(canonical_json(digests))
