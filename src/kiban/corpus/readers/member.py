"""What a reader gets."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extraction:
    """How a source wants its documents taken out: by which `extractor`, in how many `seconds` at most, and from which
    `columns` (a field of a document -> the name it has in the data)."""

    extractor: str = "resiliparse"
    seconds: float = 10.0
    columns: tuple[tuple[str, str], ...] = ()

    def column(self, field: str) -> str:
        return dict(self.columns).get(field, field)


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a source, or a part of one that its format can be cut at: then `line` is the number of lines or rows
    before it. `charset`, `kind` and `date` are what a web server said of a page."""

    name: str
    data: bytes
    line: int = 0
    charset: str = ""
    kind: str = ""
    date: str = ""
    extraction: Extraction = Extraction()
