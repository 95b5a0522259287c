"""What a reader gets."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a source, or whole lines of one: then `line` is the number of lines before them."""

    name: str
    data: bytes
    line: int = 0
