"""Dialogues as JSON with `utterances`, as RealPersonaChat and ASDC have them: a line of text an utterance.

Speakers become their role, or A, B, ... in order of appearance: who spoke is not for a model to learn. Where the text
names a speaker as <XX>, the same letter stands there.
"""

import json
import re
from collections.abc import Iterator, Sequence

from kiban.corpus.documents import Document, Unreadable
from kiban.corpus.readers.member import Member

ROLES = {"operator": "オペレーター", "customer": "お客様"}
MASKED_NAME = re.compile(r"<([A-Z]{2})>")


def speakers(names: Sequence[str]) -> dict[str, str]:
    """What to call each of `names`. A name such as customer_10 is a role with a number."""
    called: dict[str, str] = {}
    for name in names:
        role = ROLES.get(name.split("_")[0])
        called.setdefault(name, role or chr(ord("A") + len(called) % 26))
    return called


def read(member: Member, encoding: str) -> Iterator[Document]:
    try:
        dialogue = json.loads(member.data.decode(encoding))
        turns = [(str(u.get("interlocutor_id") or u["name"]), str(u["text"])) for u in dialogue["utterances"]]
    except (json.JSONDecodeError, RecursionError) as error:
        raise Unreadable(f"not JSON: {error}") from None
    except (KeyError, TypeError, AttributeError):
        raise Unreadable("no list `utterances` with a speaker and a `text` each") from None
    called = speakers([name for name, _ in turns])
    lines = (f"{called[name]}：{MASKED_NAME.sub(lambda m: called.get(m[1], m[0]), text)}" for name, text in turns)
    date = str(dialogue["utterances"][0].get("timestamp", ""))[:10] if turns else ""
    yield Document("\n".join(lines), member.name, date=date)
