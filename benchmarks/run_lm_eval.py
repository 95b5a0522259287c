"""lm-evaluation-harness on a model and on items that are given: run in its own environment (see evaluation.py).

    python run_lm_eval.py ASKED.json ANSWERED.json

ASKED: {"model": folder, "threads": n, "batch_size": n, "dtype": name, "tasks": [{"task": one of its own, or a whole
configuration under "config"; "docs": rows as its dataset has them}]}. No network is used: the rows are all its data.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def configuration(task: dict[str, Any], data: Path) -> dict[str, Any]:
    """A task's own configuration, over rows of ours, without examples (its training part is not here)."""
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    if "config" in task:
        found = dict(task["config"])
    else:
        folder = Path(lm_eval.tasks.__file__).parent / "japanese_leaderboard"
        found = load_yaml(folder / f"{task['task']}.yaml")
    for key in ("dataset_name", "training_split", "validation_split", "fewshot_split"):
        found.pop(key, None)
    return found | {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "num_fewshot": 0,
        "task": task["name"],
    }


def main(asked: Path, answered: Path) -> None:
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    given = json.loads(asked.read_text())
    torch.set_num_threads(given["threads"])
    model = HFLM(
        pretrained=given["model"], device="cpu", dtype=given["dtype"], batch_size=given["batch_size"], max_length=None
    )
    answers = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = f"{folder}/cache"
        for task in given["tasks"]:
            data = Path(folder) / f"{task['name']}.jsonl"
            data.write_text("".join(json.dumps(doc, ensure_ascii=False) + "\n" for doc in task["docs"]))
            config = configuration(task, data)
            start = time.perf_counter()
            found = simple_evaluate(model=model, tasks=[config], bootstrap_iters=0, cache_requests=False)
            seconds = time.perf_counter() - start
            samples = sorted(found["samples"][task["name"]], key=lambda sample: sample["doc_id"])
            answers[task["name"]] = {
                "seconds": seconds,
                "metrics": {k: v for k, v in found["results"][task["name"]].items() if isinstance(v, float)},
                "items": [sample["filtered_resps"] for sample in samples],
                "prompts": [sample["arguments"][0][0] for sample in samples],
            }
    answered.write_text(json.dumps(answers, ensure_ascii=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
