"""The passages of SQuAD-like JSON (JaQuAD): an article a document, its `context`s as paragraphs. Questions are left."""

import json
from collections.abc import Iterator

from kiban.corpus.documents import Document, Unreadable
from kiban.corpus.readers.member import Member


def read(member: Member, encoding: str) -> Iterator[Document]:
    try:
        articles = [
            (str(article.get("title", "")), [str(paragraph["context"]) for paragraph in article["paragraphs"]])
            for article in json.loads(member.data.decode(encoding))["data"]
        ]
    except (json.JSONDecodeError, RecursionError) as error:
        raise Unreadable(f"not JSON: {error}") from None
    except (KeyError, TypeError, AttributeError):
        raise Unreadable("no list `data` of articles with `paragraphs` that have a `context`") from None
    for number, (title, contexts) in enumerate(articles, 1):
        yield Document("\n\n".join(contexts), f"{member.name}#{number}", title)
