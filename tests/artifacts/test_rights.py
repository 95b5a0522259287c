import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kiban.artifacts.errors import KibanError
from kiban.artifacts.rights import LICENCES, USES, Rights, meet, obligations_of

rights = st.builds(
    Rights,
    uses=st.frozensets(st.sampled_from(USES)),
    residency=st.frozensets(st.sampled_from(["JP", "SG", "*"])),
    expires=st.none() | st.dates(datetime.date(2026, 1, 1), datetime.date(2031, 1, 1)),
    obligations=st.frozensets(st.sampled_from(["no-identification", "share-alike:CC-BY-SA-4.0"])),
)


def same(first: Rights, second: Rights) -> bool:
    """Equal in meaning: `*` beside other countries says no more than `*`."""
    anywhere = "*" in first.residency and "*" in second.residency
    update = {"residency": frozenset()} if anywhere else {}
    return first.model_copy(update=update) == second.model_copy(update=update)


@given(rights, rights, rights)
def test_meet_is_a_meet(a: Rights, b: Rights, c: Rights) -> None:
    assert same(meet([a, b]), meet([b, a]))
    assert same(meet([a, meet([b, c])]), meet([meet([a, b]), c]))
    assert same(meet([a, a]), a)
    assert same(meet([a]), a)


@given(rights, rights, st.sampled_from(USES), st.dates(datetime.date(2026, 1, 1), datetime.date(2031, 1, 1)))
def test_nothing_is_allowed_that_an_input_does_not_allow(a: Rights, b: Rights, use: str, day: datetime.date) -> None:
    assert meet([a, b]).allows(use, day) == (a.allows(use, day) and b.allows(use, day))
    assert meet([a, b]).obligations >= a.obligations | b.obligations


def test_unknown_uses_and_licences_are_refused() -> None:
    with pytest.raises(ValidationError, match="use 'train' is not known"):
        Rights(uses=frozenset({"train"}))
    with pytest.raises(KibanError, match="licence 'CC-BY-NC-4.0' is not known"):
        obligations_of("CC-BY-NC-4.0", "novels")


def test_obligations_name_the_source() -> None:
    assert obligations_of("CC-BY-SA-4.0", "wikipedia") == {"attribution:wikipedia", "share-alike:CC-BY-SA-4.0"}
    assert obligations_of("public-domain", "aozora") == frozenset()
    assert all(duty == "attribution" or ":" in duty for duties in LICENCES.values() for duty in duties)


def test_rights_survive_json() -> None:
    terms = Rights(
        uses=frozenset({"serve", "pretrain"}), residency=frozenset({"JP"}), expires=datetime.date(2030, 3, 31)
    )
    assert Rights.model_validate_json(terms.model_dump_json()) == terms
    assert terms.model_dump(mode="json")["uses"] == ["pretrain", "serve"]
