"""Documents that are zip files of XML: read in memory, with their own limits, since a document may be a bomb too."""

import io
import xml.etree.ElementTree as ElementTree
import zipfile

from kiban.corpus.archives import ZIP_ERRORS
from kiban.corpus.documents import Unreadable

MOST_BYTES = 256 << 20


class Packed:
    """The parts of an EPUB or Office file.

    Raises:
        Unreadable: from all its functions, for what is not there or not what it should be.
    """

    def __init__(self, data: bytes) -> None:
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except ZIP_ERRORS as error:
            raise Unreadable(f"not a zip file: {error}") from None
        self.names = set(self._zip.namelist())
        if sum(info.file_size for info in self._zip.infolist()) > MOST_BYTES:
            raise Unreadable(f"more than {MOST_BYTES >> 20} MiB unpacked: a decompression bomb?")

    def part(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        except KeyError:
            raise Unreadable(f"there is no part '{name}' in it") from None
        except ZIP_ERRORS as error:
            raise Unreadable(f"part '{name}' is damaged: {error}") from None

    def xml(self, name: str) -> ElementTree.Element:
        data = self.part(name)
        if b"<!ENTITY" in data or b"<!\0E\0N\0T" in data:
            raise Unreadable(f"part '{name}' defines entities, which such files do not")
        try:
            return ElementTree.fromstring(data)
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            raise Unreadable(f"part '{name}' is not XML: {error}") from None
