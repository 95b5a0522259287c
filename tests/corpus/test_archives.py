"""Archives as they should be, and as they should not."""

import io
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from kiban.artifacts.errors import KibanError
from kiban.corpus import archives, pieces
from kiban.corpus.archives import entries, files
from kiban.corpus.documents import Refused
from kiban.corpus.readers import cut


def compressed(data: bytes, codec: str = "zstd") -> bytes:
    return pa.compress(data, codec=codec, asbytes=True) if codec == "zstd" else _gzip(data)


def _gzip(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data)


def tar_of(members: list[tuple[str, bytes] | tarfile.TarInfo]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


TWO = [("a/一.txt", "一つ目。".encode()), ("a/二.txt", "二つ目。".encode())]


def read_all(location: Path) -> dict[str, bytes]:
    return {entry.name: entry.stream.read() for entry in entries(location, (".txt",), "s") if entry.stream}


def refused(location: Path, format: str = "plain") -> list[Refused]:
    """What the source at `location` loses, as the ledger will have it."""
    found = [r for piece in pieces.pieces("s", format, location, 0, 0) for r in piece.refused]
    assert all("\n" not in r.detail for r in found)
    return found


def error_of(location: Path) -> str:
    with pytest.raises(KibanError) as caught:
        read_all(location)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_container_gives_the_same_members(tmp_path: Path) -> None:
    tar = tar_of([*TWO, ("a/", b"")][:2])
    (tmp_path / "a.tar").write_bytes(tar)
    (tmp_path / "a.tar.zst").write_bytes(compressed(tar))
    (tmp_path / "a.tar.gz").write_bytes(compressed(tar, "gzip"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in TWO:
            archive.writestr(name, data)
    for name in ("a.tar", "a.tar.zst", "a.tar.gz", "a.zip"):
        assert read_all(tmp_path / name) == dict(TWO), name
    folder = tmp_path / "folder"
    for name, data in TWO:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    assert read_all(folder) == dict(TWO)
    assert [path.name for path in files(folder, (".txt",), "s")] == ["一.txt", "二.txt"]


def test_a_single_file_plain_and_compressed(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"x")
    (tmp_path / "y.txt.zst").write_bytes(compressed(b"y"))
    assert read_all(tmp_path / "x.txt") == {"x.txt": b"x"}
    assert read_all(tmp_path / "y.txt.zst") == {"y.txt": b"y"}


def test_archives_in_a_folder_are_opened(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar.zst").write_bytes(compressed(tar_of(TWO)))
    assert read_all(tmp_path) == {f"in/a.tar.zst/{name}": data for name, data in TWO}


def test_zip_names_of_japanese_windows(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("XXXX.txt", b"x")
    data = (tmp_path / "a.zip").read_bytes().replace(b"XXXX", "表題".encode("cp932"))
    (tmp_path / "a.zip").write_bytes(data)
    assert list(read_all(tmp_path / "a.zip")) == ["表題.txt"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("codec", ["zstd", "gzip"])
def test_a_truncated_archive(tmp_path: Path, share: float, codec: str) -> None:
    import random

    noise = random.Random(1).randbytes(200_000)
    data = compressed(tar_of([("first.txt", noise[:100_000]), ("second.txt", noise[100_000:])]), codec)
    ending = {"zstd": ".tar.zst", "gzip": ".tar.gz"}[codec]
    path = tmp_path / f"cut{ending}"
    path.write_bytes(data[: int(len(data) * share)])
    lost = refused(path)
    assert {r.reason for r in lost} == {"damaged"}
    message = lost[-1].detail
    assert lost[-1].uri == path.name and "cut short" in message and "fetch the archive again" in message
    if share >= 0.9:
        assert "second.txt" in message
        whole = [m for piece in pieces.pieces("s", "plain", path, 0, 0) for m in piece.members]
        assert whole[0].name == "first.txt" and whole[0].data == noise[:100_000]


def test_a_truncated_single_file(tmp_path: Path) -> None:
    import random

    data = compressed("".join(random.Random(1).choices("あいうえお漢字", k=100_000)).encode())
    (tmp_path / "a.txt.zst").write_bytes(data[:-50])
    (lost,) = refused(tmp_path / "a.txt.zst")
    assert (lost.uri, lost.reason) == ("a.txt", "damaged") and "cut short" in lost.detail


def test_a_tar_that_ends_between_members(tmp_path: Path) -> None:
    data = tar_of([("a.txt", b"a"), ("b.txt", b"b")])
    (tmp_path / "cut.tar").write_bytes(data[:1024])  # the first member, whole
    (lost,) = refused(tmp_path / "cut.tar")
    assert lost.reason == "damaged" and "the mark at its end is missing" in lost.detail
    (tmp_path / "cut.tar").write_bytes(data[:800])
    assert "cut short" in refused(tmp_path / "cut.tar")[-1].detail


def test_what_is_no_archive(tmp_path: Path) -> None:
    for name in ("a.tar.zst", "a.tar", "a.zip", "a.txt.zst", "a.tar.gz"):
        (tmp_path / name).write_bytes(b"nothing of the kind" * 100)
        assert [r.reason for r in refused(tmp_path / name)] == ["damaged"], name


@pytest.mark.parametrize("name", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "..\\out.txt", "C:\\out.txt"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_lead_out(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "tar":
        path.write_bytes(tar_of([(name, b"x")]))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(zipfile.ZipInfo(name), b"x")
    (lost,) = refused(path)
    assert lost.reason == "unsafe_name" and "leads out of the archive" in lost.detail and "out.txt" in lost.uri
    assert not (tmp_path.parent / "out.txt").exists()


def test_a_bomb(tmp_path: Path) -> None:
    zeros = bytes(100 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.txt", zeros)
    (tmp_path / "bomb.tar.zst").write_bytes(compressed(tar_of([("zeros.txt", zeros)])))
    (tmp_path / "bomb.txt.zst").write_bytes(compressed(zeros))
    for name in ("bomb.zip", "bomb.tar.zst", "bomb.txt.zst"):
        lost = refused(tmp_path / name)[-1]
        assert lost.reason == "bomb"
        assert "decompression bomb" in lost.detail and "unpack it and give the folder" in lost.detail
    assert "zeros.txt" in refused(tmp_path / "bomb.tar.zst")[-1].detail


def test_a_zip_that_lies_about_its_sizes(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", bytes(1 << 20))
    data = path.read_bytes().replace((1 << 20).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    path.write_bytes(data)
    assert [(r.uri, r.reason) for r in refused(path)] == [("a.txt", "damaged")]


def test_an_encrypted_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", b"x")
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    (lost,) = refused(path)
    assert (lost.uri, lost.reason) == ("a.txt", "encrypted") and "unpack it" in lost.detail


def test_links_and_devices_are_refused_one_by_one(tmp_path: Path) -> None:
    link = tarfile.TarInfo("link.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device = tarfile.TarInfo("device.txt")
    device.type = tarfile.CHRTYPE
    (tmp_path / "a.tar").write_bytes(tar_of([TWO[0], link, device, TWO[1]]))
    found = list(pieces.pieces("s", "plain", tmp_path / "a.tar", 0, 0))
    assert [member.name for piece in found for member in piece.members] == [name for name, _ in TWO]
    assert [(r.uri, r.reason) for piece in found for r in piece.refused] == [
        ("link.txt", "not_a_file"),
        ("device.txt", "not_a_file"),
    ]


def test_links_in_a_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "loop").symlink_to(tmp_path)
    found = list(entries(folder, (".txt",), "s"))
    assert [(entry.name, entry.stream is None) for entry in found] == [
        ("a.txt", False),
        ("link.txt", True),
        ("loop", True),
    ]


def test_a_missing_and_an_empty_place(tmp_path: Path) -> None:
    assert "does not exist" in error_of(tmp_path / "absent.zip")
    (tmp_path / "a.md").write_text("x")
    assert "there is no .txt file" in error_of(tmp_path)


def test_lines_are_cut_into_pieces_at_their_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 100)
    lines = [f'{{"text": "{i}"}}\n'.encode() for i in range(100)]
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    found = list(pieces.pieces("s", "jsonl", tmp_path / "a.jsonl", 0, 0))
    members = [member for piece in found for member in piece.members]
    assert len(found) > 5 and [piece.number for piece in found] == list(range(len(found)))
    assert b"".join(member.data for member in members) == b"".join(lines)
    assert all(member.data.endswith(b"\n") for member in members)
    assert all(member.data.startswith(lines[member.line]) for member in members)


def test_what_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 100)
    monkeypatch.setattr(pieces, "MOST_MEMBER_BYTES", 1000)
    monkeypatch.setattr(cut, "MOST_MEMBER_BYTES", 1000)
    (tmp_path / "a.jsonl").write_bytes(b"{}\n" + b"x" * 5000 + b"\n{}\n")
    found = list(pieces.pieces("s", "jsonl", tmp_path / "a.jsonl", 0, 0))
    assert b"".join(member.data for piece in found for member in piece.members) == b"{}\n{}\n"
    assert [r.uri for piece in found for r in piece.refused] == ["a.jsonl#2"]
    (tmp_path / "b.txt").write_bytes(b"x" * 1001)
    (piece,) = pieces.pieces("s", "plain", tmp_path / "b.txt", 0, 0)
    assert isinstance(piece.refused[0], Refused) and piece.refused[0].reason == "too_large"


def test_real_archives_hold_what_their_list_says(kiban_data: Path) -> None:
    for name, count in (("plateau-sdk-manual-ja-md.tar.zst", 15), ("asdc-dialog.zip", 332)):
        found = list(entries(kiban_data / "corpora" / name, (), "s"))
        assert len(found) == count
    assert archives.MOST_RATIO > 2 * 16_122_971 / 303_242  # versions of one law compress 53 times
