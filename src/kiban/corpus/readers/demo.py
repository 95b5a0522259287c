"""The demo text that comes with Kiban, as lines of JSON, so that it goes the way of any other source."""

import json
from collections.abc import Iterator


def lines(megabytes: float, seed: int) -> Iterator[bytes]:
    """About `megabytes` MB of text, a document a line."""
    from kiban.corpus.demo_text import compose

    for document in compose(megabytes, seed):
        yield json.dumps(document, ensure_ascii=False).encode() + b"\n"
