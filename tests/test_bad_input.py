"""What goes wrong at the command line: one line, exit code 2, and nothing half-written."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.commands import error_of, kiban
from tests.small import small_demo


def programme(folder: Path, source: str = "", rest: str = "", uses: str = '["pretrain", "evaluate"]') -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kiban.toml").write_text(
        f"""\
[programme]
name = "test"

[[partner]]
name = "self"

[[source]]
name = "own"
partner = "self"
licence = "proprietary"
uses = {uses}
residency = ["JP"]
{source or 'path = "text.txt"' + chr(10) + 'format = "plain"'}
{rest}
""",
        encoding="utf-8",
    )
    return folder


def store_is_clean(folder: Path) -> bool:
    """No artifact of a later stage, and nothing left in the making."""
    corpora = list(folder.glob(".kiban/artifacts/corpus/*/manifest.json"))
    return not corpora and not list(folder.glob(".kiban/staging/*/*"))


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("[corpus]\nhold_bak = 0.1", r"kiban.toml:16: corpus.hold_bak: unknown key; did you mean 'hold_back'?"),
        ('[corpus]\nhold_back = "much"', "kiban.toml:16: corpus.hold_back: found 'much'"),
        ("[corpsu]\nhold_back = 0.1", "corpsu: unknown key; did you mean 'corpus'?"),
        ("[model\n", "not TOML"),
        ('[model]\npreset = "huge"', "huge"),
        ('[training]\ntokens = "15X"', "15X"),
    ],
)
def test_a_mistake_in_the_programme_file_is_named_with_its_line(tmp_path: Path, rest: str, expected: str) -> None:
    folder = programme(tmp_path, rest=rest)
    (folder / "text.txt").write_text("こんにちは。")
    assert expected in error_of("run", folder)


def test_there_is_no_programme(tmp_path: Path) -> None:
    assert "kiban init" in error_of("run", tmp_path / "nowhere")


def test_a_missing_archive(tmp_path: Path) -> None:
    folder = programme(tmp_path, source='path = "absent.tar.zst"\nformat = "plain"')
    assert "absent.tar.zst" in error_of("run", folder)
    assert store_is_clean(folder)


def test_an_environment_variable_that_is_not_set(tmp_path: Path) -> None:
    folder = programme(tmp_path, source='path = "$NO_SUCH_PLACE/a.txt"\nformat = "plain"')
    assert "NO_SUCH_PLACE, which is not set" in error_of("run", folder)


def test_an_empty_source(tmp_path: Path) -> None:
    folder = programme(tmp_path, source='path = "empty"\nformat = "plain"')
    (folder / "empty").mkdir()
    assert "own" in error_of("run", folder)
    assert store_is_clean(folder)


def test_a_source_that_forbids_training(tmp_path: Path) -> None:
    folder = programme(tmp_path, uses='["evaluate"]')
    (folder / "text.txt").write_text("こんにちは。")
    message = error_of("run", folder)
    assert "needs the use 'pretrain', which source.own does not grant" in message
    assert store_is_clean(folder)


def test_an_unknown_partner(tmp_path: Path) -> None:
    folder = programme(tmp_path)
    file = folder / "kiban.toml"
    file.write_text(file.read_text().replace('partner = "self"', 'partner = "them"'))
    assert "there is no [[partner]] 'them'" in error_of("run", folder)


def test_a_stage_that_there_is_not(tmp_path: Path) -> None:
    assert "no such stage; stages: " in error_of("run", small_demo(tmp_path / "demo"), "--to", "moddel")


def test_a_read_only_store(tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir()
    if os.geteuid() == 0:  # whom modes do not stop
        if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True).returncode:
            pytest.skip("no right to mount a file system here")
        lock, unlock = ["mount", "-o", "remount,ro", str(folder)], ["umount", str(folder)]
    else:
        lock, unlock = ["chmod", "500", str(folder)], ["chmod", "700", str(folder)]
    programme(folder)
    (folder / "text.txt").write_text("こんにちは。")
    subprocess.run(lock, check=True)
    try:
        assert "cannot be written to" in error_of("run", folder)
    finally:
        subprocess.run(unlock, check=True)


def test_a_store_that_is_a_file(tmp_path: Path) -> None:
    folder = programme(tmp_path)
    (folder / "text.txt").write_text("こんにちは。")
    (folder / ".kiban").write_text("no folder")
    assert "cannot be written to" in error_of("run", folder)


def test_a_bundle_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text("[1, 2")
    assert "bundle.json" in error_of("verify", tmp_path / "bundle.json")


def test_init_does_not_overwrite(tmp_path: Path) -> None:
    kiban("init", tmp_path / "mine")
    assert "there is a programme already" in error_of("init", tmp_path / "mine")
    assert "no document with one of the endings" in error_of("init", tmp_path / "other", "--text", tmp_path / "mine")
