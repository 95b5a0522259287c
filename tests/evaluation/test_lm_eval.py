"""Scores are those of lm-evaluation-harness, on the same model and the same items, where it has the task.

It lives in an environment of its own, which benchmarks/peers.py makes. Where that cannot be had, nothing was compared,
and the test says so.
"""

import json
import os
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import peers
from kiban.evaluation import engine, suite
from kiban.model import hf
from kiban.model.presets import preset
from kiban.model.transformer import Transformer
from kiban.tokenizer.bpe import Tokenizer
from tests.evaluation import models

RUN = Path(peers.__file__).with_name("run_lm_eval.py")


def harness() -> Path:
    try:
        return peers.python_of("lm-eval")
    except (subprocess.CalledProcessError, OSError) as error:
        said = f"lm-evaluation-harness cannot be installed here ({error}): NO SCORE WAS COMPARED WITH IT"
        warnings.warn(said, stacklevel=1)
        pytest.skip(said)


def model(folder: Path, texts: list[str], answers: list[str]) -> Path:
    """An untrained model with a real vocabulary, in which a prompt's last character joins an answer's first."""
    words = Tokenizer.train([f"応答：\n{answer}" for answer in answers] * 9 + texts, 1500, may_be_smaller=True)
    assert any(len(words.encode(f"\n{answer}")) == len(words.encode(answer)) for answer in answers)
    # Where an answer is swallowed whole by the prompt's last token, the harness scores nothing, as certain (0 nats).
    assert all(len(words.encode(f"答え：{answer}")) > len(words.encode("答え：")) for answer in answers)
    config = preset("nano", words.vocab_size).model_copy(
        update={"num_hidden_layers": 2, "max_position_embeddings": 1024, "initializer_range": 0.1}
    )
    made = Transformer(config)
    made.init_weights(torch.Generator().manual_seed(0))
    hf.save(made, folder)
    words.save(folder)
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.slow
def test_scores_are_those_of_the_harness(kiban_data: Path, tmp_path: Path) -> None:
    python = harness()
    sets = kiban_data / "eval" / "jglue"
    questions = lines(sets / "jcommonsenseqa-v1.3" / "valid-v1.3.json")[:40]
    pairs = lines(sets / "jnli-v1.3" / "valid-v1.3.json")[:40]
    texts = [json.dumps(row, ensure_ascii=False) for row in [*questions, *pairs]]
    folder = model(tmp_path / "model", texts, [row[f"choice{n}"] for row in questions for n in range(5)])
    answers = models.answers(folder)

    # Items as the suites have them.
    asked = {
        "jcommonsenseqa": suite.items(suite.load("jcommonsenseqa"), _of(sets, "jcommonsenseqa"), "harness")[:40],
        "own wording": suite.items(suite.load("jcommonsenseqa"), _of(sets, "jcommonsenseqa"))[:40],
        "jnli": suite.items(suite.load("jnli"), _of(sets, "jnli"))[:40],
        "jsquad": suite.items(suite.load("jsquad"), _of(sets, "jsquad"))[:4],
        "mgsm-ja": suite.items(suite.load("mgsm-ja"), kiban_data / "eval/mgsm-ja/mgsm_ja.tsv")[:4],
    }
    written = answers.generate([item.asked.rstrip() for item in asked["jsquad"]], 256, ("\n\n",), lambda n: None)
    for number in (0, 3):  # so that an untrained model is right somewhere
        asked["jsquad"][number] = replace(asked["jsquad"][number], references=(written[number].strip(),))
    ours = {
        name: engine.score(
            suite.load("jcommonsenseqa" if name == "own wording" else name), items, answers, lambda n: None
        )
        for name, items in asked.items()
    }

    # The same items as the harness's own datasets have them.
    documents = json.loads(_of(sets, "jsquad").read_text("utf-8"))["data"]
    contexts = {q["id"]: p["context"] for d in documents for p in d["paragraphs"] for q in p["qas"]}
    labels = ["entailment", "contradiction", "neutral"]
    by_question = {item.id: item for item in asked["jsquad"]}
    squad = [
        {"context": contexts[name], "question": item.content, "answers": {"text": [item.references[0]]}}
        for name, item in by_question.items()
    ]
    sums = [{"question": i.content, "answer": "", "answer_number": int(i.references[0])} for i in asked["mgsm-ja"]]
    wording = {
        "output_type": "multiple_choice",
        "doc_to_text": "質問：{{question}}\n答え：",
        "doc_to_choice": "{{[choice0, choice1, choice2, choice3, choice4]}}",
        "doc_to_target": "label",
        "target_delimiter": "",
        "metric_list": [{"metric": name} for name in ("acc", "acc_norm", "acc_mutual_info")],
    }
    tasks: list[dict[str, Any]] = [
        {"name": "jcommonsenseqa", "task": "ja_leaderboard_jcommonsenseqa", "docs": questions},
        {"name": "own wording", "config": wording, "docs": questions},
        {
            "name": "jnli",
            "task": "ja_leaderboard_jnli",
            "docs": [r | {"label": labels.index(r["label"])} for r in pairs],
        },
        {"name": "jsquad", "task": "ja_leaderboard_jsquad", "docs": squad},
        {"name": "mgsm-ja", "task": "ja_leaderboard_mgsm", "docs": sums},
    ]
    job = {"model": str(folder), "threads": 1, "batch_size": 8, "dtype": "float32", "tasks": tasks}
    (tmp_path / "asked.json").write_text(json.dumps(job))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(python), str(RUN), str(tmp_path / "asked.json"), str(tmp_path / "answered.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads((tmp_path / "answered.json").read_text())

    names = {"accuracy": "acc", "accuracy_per_character": "acc_norm", "accuracy_unconditional": "acc_mutual_info"}
    for name, result in ours.items():
        found = theirs[name]
        for item, row, prompt, answered in zip(asked[name], result.rows, found["prompts"], found["items"], strict=True):
            assert prompt.rstrip() == item.asked.rstrip()
            if "log_likelihoods" in row:
                nats = [float(pair[0]) for pair in answered][: len(item.choices)]
                assert row["log_likelihoods"] == pytest.approx(nats, rel=1e-6, abs=1e-5)
            else:
                assert row["written"].strip() == answered[0].strip()
        for metric, value in result.metrics.items():
            their = found["metrics"].get(f"{names.get(metric, metric)},none")
            their = found["metrics"].get(f"{names.get(metric, metric)},whitespaces", their)
            if their is not None:
                assert value.value == pytest.approx(their, abs=1e-6), f"{name}: {metric}"
    assert len([m for m in names.values() if f"{m},none" in theirs["own wording"]["metrics"]]) == 3
    assert ours["jsquad"].metrics["exact_match"].value == pytest.approx(2 / 4)
    assert theirs["mgsm-ja"]["metrics"]["acc,none"] == ours["mgsm-ja"].metrics["exact_match"].value


def _of(sets: Path, name: str) -> Path:
    return sets / f"{name}-v1.3" / "valid-v1.3.json"
