"""Which documents are meant: by source, by id, by address or by host. What is withdrawn, and what has terms of its own,
is told so."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from kiban.artifacts.errors import KibanError

KINDS = ("source", "document", "uri", "host")


@dataclass(frozen=True)
class Selection:
    """`uris` are addresses, with `*` for any characters; one of a file means all documents in it (`file#3`). A host
    means those below it too."""

    sources: frozenset[str] = frozenset()
    documents: frozenset[str] = frozenset()
    uris: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()

    def why(self, source: str, identity: str, uri: str) -> str:
        """By what the document is meant, as `kind:value`; nothing if it is not."""
        if source in self.sources:
            return f"source:{source}"
        if identity in self.documents:
            return f"document:{identity}"
        if self.uris:
            if uri in self.uris:
                return f"uri:{uri}"
            if (file := uri.rpartition("#")[0]) and file in self.uris:
                return f"uri:{file}"
            if (pattern := _patterns(self.uris)) and (found := pattern.fullmatch(uri)):
                return f"uri:{sorted(u for u in self.uris if '*' in u)[int(str(found.lastgroup)[1:])]}"
        if self.hosts and (host := host_of(uri)):
            parts = host.split(".")
            for at in range(len(parts)):
                if (above := ".".join(parts[at:])) in self.hosts:
                    return f"host:{above}"
        return ""


def host_of(uri: str) -> str:
    """The host of an address, in small letters; nothing if it has none."""
    if "://" not in uri:
        return ""
    try:
        return (urlsplit(uri).hostname or "").rstrip(".")
    except ValueError:
        return ""


@lru_cache(maxsize=64)
def _patterns(uris: frozenset[str]) -> re.Pattern[str] | None:
    starred = sorted(uri for uri in uris if "*" in uri)
    if not starred:
        return None
    each = (f"(?P<p{n}>{'.*'.join(map(re.escape, uri.split('*')))})" for n, uri in enumerate(starred))
    return re.compile("|".join(each), re.DOTALL)


def selection(written: Iterable[str]) -> Selection:
    """The selection that a list of `kind:value` means. A value without a kind is a source, an id or an address.

    Raises:
        KibanError: for a kind without a value.
    """
    chosen: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for entry in written:
        kind, colon, value = entry.partition(":")
        if colon and kind in KINDS:
            if not value.strip():
                raise KibanError(f"'{entry}' names no {kind}; write it like {kind}:NAME")
            chosen[kind].add(value.lower().rstrip(".") if kind == "host" else value)
        else:
            for anything in ("source", "document", "uri"):
                chosen[anything].add(entry)
    return Selection(*(frozenset(chosen[kind]) for kind in KINDS))
