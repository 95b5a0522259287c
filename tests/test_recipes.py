"""The recipes at a small size through the installed command: from text to verdict, twice, traced, and damaged."""

import json
import shutil
import time
from pathlib import Path

import pytest

from tests.commands import error_of, kiban, kiban_json
from tests.small import RECIPES, small_demo


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small demo. Tests that change it copy it first."""
    folder = small_demo(tmp_path_factory.mktemp("programme") / "demo")
    done = kiban("run", folder)
    assert "report.html" in done.stdout + done.stderr
    return folder


def test_the_demo_makes_every_stage_and_its_evidence(demo: Path) -> None:
    stages = {stage["stage"]: stage for stage in kiban_json("status", demo, "--json")["stages"]}
    assert list(stages)[-4:] == ["demonstrations", "policy", "rollout", "milestones"]
    assert all(stage["made"] for stage in stages.values())
    assert stages["corpus"]["metrics"]["corpus.documents_kept"]["value"] > 100
    assert 0 < stages["evaluation"]["metrics"]["evaluation.bits-per-character.all"]["value"] < 16
    assert stages["rollout"]["metrics"]["rollout.reach.success_rate"]["interval"] is not None
    assert (demo / "report.html").stat().st_size > 20_000
    assert sorted(path.name for path in (demo / "evidence").iterdir()) == [f"M{i}.dsse.json" for i in (1, 2, 3)]


def test_a_second_run_does_nothing_and_says_so(demo: Path) -> None:
    start = time.monotonic()
    done = kiban("run", demo)
    assert "nothing to do" in done.stderr
    assert time.monotonic() - start < 10  # the bar is 3 s on a quiet machine; this one may be busy


def test_evidence_verifies_and_an_edited_figure_does_not(demo: Path, tmp_path: Path) -> None:
    bundle = demo / "evidence" / "M1.dsse.json"
    kiban("verify", bundle)
    envelope = json.loads(bundle.read_text())
    payload = envelope["payload"]
    envelope["payload"] = payload[:200] + ("A" if payload[200] != "A" else "B") + payload[201:]
    edited = tmp_path / "edited.dsse.json"
    edited.write_text(json.dumps(envelope))
    kiban("verify", edited, code=1)


def test_a_sentence_is_traced_to_its_source_and_steps(demo: Path) -> None:
    passage = "を"
    answer = kiban_json("trace", passage, "--programme", demo, "--json")
    document = next(d for d in answer["documents"] if not d["held_back"])
    assert document["source"] == "demo" and document["licence"] == "Apache-2.0"
    by_id = kiban_json("trace", document["id"], "--programme", demo, "--json")["documents"]
    assert [d["id"] for d in by_id] == [document["id"]]
    assert by_id[0]["steps"] == document["steps"]
    kiban("trace", "この文はどこにもない。", "--programme", demo, code=1)
    assert "not UTF-8" in error_of("trace", "\udc83e", "--programme", demo)  # Shift_JIS in a UTF-8 terminal


def test_the_export_scores_text(demo: Path, tmp_path: Path) -> None:
    kiban("export", demo, "--to", tmp_path / "hf")
    text = tmp_path / "text.txt"
    text.write_text("本日の点検で異常は見つかりませんでした。", encoding="utf-8")
    score = kiban_json("eval", "score", tmp_path / "hf", "--text-file", text, "--json")
    assert score["characters"] == 20 and score["log_likelihood"] < 0
    bits = -score["log_likelihood"] / 0.6931471805599453 / score["characters"]
    assert score["bits_per_character"] == pytest.approx(bits)


def test_the_robot_is_evaluated_again(demo: Path) -> None:
    answer = kiban_json("robot", "evaluate", demo, "--task", "reach", "--episodes", "2", "--json")
    low, high = answer["interval"]
    assert low <= answer["success_rate"] <= high and len(answer["episodes"]) == 2


def test_a_flipped_byte_is_found(demo: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(demo, tmp_path / "copy")
    weights = next(copy.glob(".kiban/artifacts/model/*/model.safetensors"))
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(bytes(content))
    assert "model.safetensors: the bytes are not those that were sealed" in error_of("status", copy, "--check")


def test_the_open_text_recipe_runs_on_the_smoke_documents(kiban_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "open-text"
    folder.mkdir()
    shutil.copy(RECIPES / "open-text" / "smoke.toml", folder / "kiban.toml")
    kiban("run", folder)
    stages = {stage["stage"]: stage for stage in kiban_json("status", folder, "--json")["stages"]}
    corpus = {name: metric["value"] for name, metric in stages["corpus"]["metrics"].items()}
    assert corpus["corpus.documents_in"] >= 100
    assert "share-alike:CC-BY-SA-4.0" in stages["model"]["rights"]["obligations"]
    assert "redistribute" in stages["source.aozora"]["rights"]["uses"]
