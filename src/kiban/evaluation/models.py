"""Models to evaluate by where they lie: an exported model of ours, a training run or checkpoint, any Hugging Face
folder."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kiban.artifacts.errors import KibanError
from kiban.artifacts.files import read_json
from kiban.artifacts.hashing import canonical_json, sha256_bytes, sha256_file
from kiban.evaluation.scoring import Scorer


@dataclass(frozen=True)
class Location:
    """`kind` is `kiban` (exported by us), `run` (a training run or a checkpoint of one) or `hugging-face`. `tokenizer`
    is the folder that the tokenizer lies in."""

    folder: Path
    kind: str
    tokenizer: Path

    def load(self, batch_tokens: int | None = None) -> Scorer:
        from kiban.evaluation import backbones

        if self.kind == "kiban":
            return Scorer(*backbones.load_kiban(self.folder), batch_tokens)
        if self.kind == "run":
            return Scorer(*backbones.load_run(self.folder, self.tokenizer), batch_tokens)
        return Scorer(*backbones.load_hugging_face(self.folder), batch_tokens)

    def digest(self) -> str:
        """Of the files that determine what the model answers."""
        files = {*self.folder.glob("*.safetensors"), self.folder / "config.json", self.folder / "state.json"}
        files |= {self.tokenizer / name for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")}
        digests = {path.name: sha256_file(path) for path in sorted(files) if path.is_file()}
        return sha256_bytes(canonical_json([self.kind, digests]))

    def tokens_trained(self) -> int | None:
        """How many tokens the model was trained on, where it says so: a checkpoint, an artifact, or a file that a
        training tool left beside the weights."""
        try:
            if (self.folder / "state.json").is_file():
                state = read_json(self.folder / "state.json")
                settings = state["identity"]["settings"]
                return int(state["position"]["step"] * settings["batch_sequences"] * settings["sequence_length"])
            if (self.folder / "manifest.json").is_file():
                metrics = read_json(self.folder / "manifest.json")["metrics"]
                if "training.tokens" in metrics:
                    return int(metrics["training.tokens"]["value"])
                return self._of_input()
        except (KeyError, TypeError):
            raise KibanError(f"{self.folder}: says nothing sensible of its training; restore its files") from None
        return None

    def _of_input(self) -> int | None:
        """The tokens of the model that an export artifact was made from, if it lies in the same store."""
        from kiban.artifacts.store import Store, read_artifact

        artifact = read_artifact(self.folder)
        address = artifact.manifest.inputs.get("model")
        found = Store(self.folder.absolute().parents[2]).find("model", address) if address else None
        metric = found.metrics.get("training.tokens") if found else None
        return int(metric.value) if metric else None


def locate(folder: Path, tokenizer: Path | None = None) -> Location:
    """Raises KibanError if no model lies there."""
    if not folder.is_dir():
        raise KibanError(f"{folder}: there is no such folder; give a model's folder, or --endpoint")
    if (folder / "state.json").is_file() or (folder / "model.safetensors").is_file() and not _is_hugging_face(folder):
        return Location(folder, "run", tokenizer or _beside(folder))
    if not (folder / "config.json").is_file():
        raise KibanError(f"{folder}: holds no config.json; give a folder that `kiban export` wrote, or a checkpoint")
    words = tokenizer or folder
    ours = read_json(folder / "config.json").get("model_type") == "deepseek_v3" and _is_ours(words / "tokenizer.json")
    return Location(folder, "kiban" if ours else "hugging-face", words)


def _is_hugging_face(folder: Path) -> bool:
    return (folder / "config.json").is_file() and "model_type" in read_json(folder / "config.json")


def _is_ours(tokenizer: Path) -> bool:
    from kiban.tokenizer.bpe import Tokenizer

    try:
        Tokenizer.load(tokenizer.parent)
    except KibanError:
        return False
    return True


def _beside(run: Path) -> Path:
    for folder in (run, *run.absolute().parents[:2]):
        if (folder / "tokenizer.json").is_file():
            return folder
    raise KibanError(f"{run}: no tokenizer.json lies with it; name its folder by --tokenizer")


class LocalModel:
    """A model on this machine, in this process or in `processes` of one thread each."""

    scores = True
    at_once = 64

    def __init__(self, location: Location, processes: int = 1, batch_tokens: int | None = None) -> None:
        self.location, self.processes, self.batch_tokens = location, processes, batch_tokens
        self.name = location.folder.absolute().name
        self.digest = location.digest()
        self.notes: list[str] = []
        self._scorer: Scorer | None = None

    def work(self, method: str, pieces: Sequence[Sequence[Any]], *rest: Any) -> Iterator[tuple[int, list[Any]]]:
        if self.processes == 1 or len(pieces) < 2:
            if pieces and self._scorer is None:
                self._scorer = self.location.load(self.batch_tokens)
            for number, piece in enumerate(pieces):
                yield number, _answer(self._scorer, method, piece, rest)
            return
        context = multiprocessing.get_context("spawn")
        workers = min(self.processes, len(pieces))
        start = (self.location, self.batch_tokens)
        with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=start) as pool:
            try:
                waiting = {pool.submit(_work, method, piece, rest): number for number, piece in enumerate(pieces)}
                for done in as_completed(waiting):
                    yield waiting[done], done.result()
            except BrokenProcessPool:
                raise KibanError(
                    f"{self.location.folder}: a worker process was ended from outside, perhaps for want of memory; run "
                    "again with fewer --processes: what was answered is kept"
                ) from None
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


_worker: Scorer | None = None


def _begin(location: Location, batch_tokens: int | None) -> None:
    import torch

    global _worker
    torch.set_num_threads(1)
    _worker = location.load(batch_tokens)


def _work(method: str, piece: Sequence[Any], rest: Any) -> list[Any]:
    return _answer(_worker, method, piece, rest)


def _answer(scorer: Scorer | None, method: str, piece: Sequence[Any], rest: Any) -> list[Any]:
    assert scorer is not None
    if method == "texts":
        return [list(asdict(score).values()) for score in scorer.texts(piece)]
    answers: list[Any] = getattr(scorer, method)(piece, *rest)
    return answers
