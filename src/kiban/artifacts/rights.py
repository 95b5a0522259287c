"""Rights: what data may be used for, where, until when, and what is owed for it. They form a lattice.

An artifact may be used for what *all* its inputs may be used for: uses and residency meet by intersection, the earliest
expiry counts, obligations and constraints add up. What is not granted is denied; a use or licence that is not known is
an error; a constraint that nobody has said is met denies every use.
"""

import datetime
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, field_serializer, field_validator

from kiban.artifacts.errors import KibanError

USES = ("pretrain", "finetune", "evaluate", "generate", "redistribute", "serve")

ANYWHERE = "*"

# Licence -> the obligations that its text brings. `attribution` gets the source's name when a source takes the licence.
# Those that want their text, or a notice, passed on with copies are in NOTICES.
LICENCES: dict[str, tuple[str, ...]] = {
    "public-domain": (),
    "not-subject-to-copyright": (),
    "proprietary": (),
    "CC0-1.0": (),
    "0BSD": (),
    "Apache-2.0": ("attribution",),
    "BSD-2-Clause": ("attribution",),
    "BSD-3-Clause": ("attribution",),
    "CC-BY-3.0": ("attribution",),
    "CC-BY-4.0": ("attribution",),
    "CC-BY-SA-3.0": ("attribution", "share-alike:CC-BY-SA-3.0"),
    "CC-BY-SA-4.0": ("attribution", "share-alike:CC-BY-SA-4.0"),
    "CDLA-Sharing-1.0": ("attribution", "share-alike:CDLA-Sharing-1.0"),
    "MIT": ("attribution",),
    "MIT OR Apache-2.0": ("attribution",),
    "PSF-2.0": ("attribution",),
}

NOTICES = frozenset({"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "MIT OR Apache-2.0", "PSF-2.0"})

# Where the text of a licence stands.
LICENCE_ADDRESSES: dict[str, str] = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "0BSD": "https://opensource.org/license/0bsd",
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "BSD-2-Clause": "https://opensource.org/license/bsd-2-clause",
    "BSD-3-Clause": "https://opensource.org/license/bsd-3-clause",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "CDLA-Sharing-1.0": "https://cdla.dev/sharing-1-0/",
    "MIT": "https://opensource.org/license/mit",
    "MIT OR Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "PSF-2.0": "https://docs.python.org/3/license.html",
}


def obligations_of(licence: str, source: str) -> frozenset[str]:
    """The obligations that `licence` brings for data of `source`.

    Raises:
        KibanError: if the licence is not in `LICENCES`.
    """
    if licence not in LICENCES:
        raise KibanError(
            f"source '{source}': licence '{licence}' is not known; use one of {', '.join(sorted(LICENCES))}, "
            "or 'proprietary' with the obligations listed under `obligations`"
        )
    return frozenset(f"attribution:{source}" if duty == "attribution" else duty for duty in LICENCES[licence])


class Rights(BaseModel):
    """What may be done with an artifact. `residency` holds country codes, or `*` for anywhere; `constraints` are the
    conditions of which it is not known that they are met."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uses: frozenset[str] = frozenset(USES)
    residency: frozenset[str] = frozenset({ANYWHERE})
    expires: datetime.date | None = None
    obligations: frozenset[str] = frozenset()
    constraints: frozenset[str] = frozenset()

    @field_validator("uses")
    @classmethod
    def _known_uses(cls, uses: frozenset[str]) -> frozenset[str]:
        unknown = sorted(uses - set(USES))
        if unknown:
            raise ValueError(f"use '{unknown[0]}' is not known; uses are {', '.join(USES)}")
        return uses

    @field_serializer("uses", "residency", "obligations", "constraints")
    def _sorted(self, values: frozenset[str]) -> list[str]:
        return sorted(values)

    def allows(self, use: str, on: datetime.date | None = None) -> bool:
        """Whether `use` is granted on that day (today if not given)."""
        assert use in USES, f"{use} is no use"
        day = on or datetime.date.today()
        return use in self.uses and not self.constraints and (self.expires is None or day <= self.expires)


def meet(all_rights: Iterable[Rights]) -> Rights:
    """The greatest rights that every one of `all_rights` grants; all rights where there is nothing to meet."""
    met = Rights()
    for rights in all_rights:
        met = Rights(
            uses=met.uses & rights.uses,
            residency=_meet_residency(met.residency, rights.residency),
            expires=min((day for day in (met.expires, rights.expires) if day), default=None),
            obligations=met.obligations | rights.obligations,
            constraints=met.constraints | rights.constraints,
        )
    return met


def _meet_residency(first: frozenset[str], second: frozenset[str]) -> frozenset[str]:
    if ANYWHERE in first:
        return second
    if ANYWHERE in second:
        return first
    return first & second
