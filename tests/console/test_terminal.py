"""The screens of the command line."""

from pathlib import Path

import pytest

from kiban.artifacts.store import Artifact
from kiban.console.terminal import final_screen, status_table
from tests.console.made import HOSTILE, small_programme


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    return small_programme(tmp_path_factory.mktemp("programme") / "store")


def test_the_final_screen(
    artifacts: list[Artifact], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    final_screen("small", artifacts, Path("/somewhere/report.html"))
    screen = capsys.readouterr().out
    assert len(screen.splitlines()) <= 24
    for artifact in artifacts:
        assert artifact.name.split("/")[1] in screen
    lines = [line.split(maxsplit=1) for line in screen.splitlines() if line]
    shown = {words[0]: words[1] for words in lines if len(words) > 1}
    assert shown["model"].split("   ")[0] == "loss 3.214, 8.21M parameters" and shown["model"].endswith("4 min 47 s")
    assert (
        shown["M1"].startswith("met ") and shown["M2"].startswith("partly met ") and shown["M3"].startswith("not met ")
    )
    assert shown["report:"] == "/somewhere/report.html"
    assert HOSTILE[:20] in screen


def test_many_sources_share_a_line(artifacts: list[Artifact], capsys: pytest.CaptureFixture[str]) -> None:
    source = artifacts[0]
    final_screen("small", [source] * 12, Path("report.html"))
    screen = capsys.readouterr().out
    assert "12 sources" in screen and screen.count("source.") == 1


def test_status_tells_figures_or_reasons(artifacts: list[Artifact], capsys: pytest.CaptureFixture[str]) -> None:
    status_table([("corpus", artifacts[3], "made"), ("tokenizer", None, "will be made: [never] made before")])
    lines = capsys.readouterr().out.splitlines()
    assert "5,160 of 6,000 documents kept" in lines[0] and "1 min 14 s" in lines[0]
    assert lines[1].split(maxsplit=1)[1].strip() == "will be made: [never] made before"
