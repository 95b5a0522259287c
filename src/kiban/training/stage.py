"""The stage `model`: packed tokens -> a trained model."""

from pathlib import Path
from typing import TYPE_CHECKING

from kiban.artifacts.errors import KibanError
from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import Progress
from kiban.artifacts.stage import Outcome, stage
from kiban.artifacts.store import Artifact
from kiban.training.settings import TrainingSettings

if TYPE_CHECKING:
    from kiban.tokenizer.bpe import Tokenizer
    from kiban.training.loop import Run


@stage("model", inputs=("tokens", "tokenizer"), version=4, use="pretrain")
def model(settings: TrainingSettings, tokens: Artifact, tokenizer: Artifact, out: Path, progress: Progress) -> Outcome:
    """Trains the preset on the tokens: config.json, model.safetensors, log.jsonl, samples.json."""
    from kiban.artifacts.files import write_atomic
    from kiban.model.presets import preset
    from kiban.tokenizer.bpe import Tokenizer
    from kiban.tokenizer.packing import TokenStore
    from kiban.training.loop import train

    data, words = TokenStore.open(tokens.path), Tokenizer.load(tokenizer.path)
    if data.tokenizer != words.digest:
        raise KibanError(f"{tokens.name}: packed with another tokenizer than {tokenizer.name}; pack the text again")
    config = preset(settings.preset, data.vocab_size).model_copy(update={"num_nextn_predict_layers": int(settings.mtp)})
    log = out / ".work" / "log.jsonl"  # with the checkpoints, which count on it: what else is here goes after an error
    run = train(config, data, settings, log, out / ".work" / "checkpoints", progress)
    write_run(run, words, out)
    write_atomic(out / "log.jsonl", log.read_bytes())

    parameters = config.parameters()
    return Outcome(
        {
            "training.loss": Metric(value=run.loss, unit="nats/token"),
            "training.tokens": Metric(value=run.tokens, unit="tokens"),
            "training.steps": Metric(value=run.num_steps, unit="steps"),
            "training.tokens_per_s": Metric(value=run.tokens_per_s, unit="tokens/s"),
            "training.mfu": Metric(value=run.mfu, unit="share"),
            "training.parameters": Metric(value=parameters.total, unit="parameters"),
            "training.active_parameters": Metric(value=parameters.active, unit="parameters"),
        },
        consumed=consumed(run),
    )


def write_run(run: "Run", tokenizer: "Tokenizer | None", folder: Path) -> None:
    """config.json and model.safetensors of a finished run, and samples.json where there is a tokenizer."""
    from kiban.artifacts.files import write_json
    from kiban.model.tensor_files import write_tensors
    from kiban.training.samples import samples

    write_json(folder / "config.json", run.model.config.model_dump(mode="json"))
    write_tensors(folder / "model.safetensors", run.model.state_dict())
    if tokenizer is not None:
        write_json(folder / "samples.json", samples(run.model, tokenizer))


def consumed(run: "Run") -> dict[str, object]:
    """What of the data the run read: positions [0, n) of the order that the seed gives (see artifacts.order), without
    those of the steps that faults excluded, first to last."""
    assert run.settings.batch_sequences is not None
    return {
        "sequences": [0, run.num_steps * run.settings.batch_sequences],
        "num_sequences": run.num_sequences,
        "sequence_length": run.settings.sequence_length,
        "batch_sequences": run.settings.batch_sequences,
        "seed": run.settings.seed,
        "excluded_steps": run.excluded,
    }
