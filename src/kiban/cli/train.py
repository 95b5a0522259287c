"""`kiban tokens` and `kiban train`: packing and training outside a programme."""

import json
import shutil
import signal
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress

if TYPE_CHECKING:
    from kiban.model.config import ModelConfig
    from kiban.planning.plan_file import Plan
    from kiban.training.loop import Run
    from kiban.training.settings import TrainingSettings

OPTIONS = ("seed", "learning_rate", "batch_sequences", "sequence_length", "dtype", "threads")


def tokens(
    files: Annotated[list[Path], typer.Argument(help="Plain text files, UTF-8. One document each.")],
    tokenizer: Annotated[Path, typer.Option(help="A folder with Kiban's tokenizer.json.")],
    to: Annotated[Path, typer.Option(help="The folder to write; it must be new or empty.")],
) -> None:
    """Packs text into token shards, without a programme.

    Example: kiban tokens a.txt b.txt --tokenizer model-hf --to packed
    """
    from kiban.tokenizer.bpe import Tokenizer
    from kiban.tokenizer.packing import TokenStore, pack

    if to.exists() and any(to.iterdir()):
        raise KibanError(f"{to}: not empty; give a new folder")
    words = Tokenizer.load(tokenizer)
    documents = ((str(path), "files", _read(path)) for path in files)
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.") as made:
        list(pack(words, documents, Path(made)))
        words.save(Path(made))
        total = TokenStore.open(Path(made)).total
        shutil.rmtree(to, ignore_errors=True)
        Path(made).rename(to)
        Path(made).mkdir()  # for TemporaryDirectory to remove
    print(f"{to}: {total} tokens of {len(files)} documents")


def train(
    data: Annotated[Path, typer.Option(help="A folder with packed tokens.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps; by the plan, if there is one.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="nano (unless --from says otherwise), tiny, small, base, large, trillion.")
    ] = None,
    to: Annotated[Path, typer.Option(help="Where the model and its checkpoints go.")] = Path("run"),
    json_log: Annotated[Path | None, typer.Option(help="A JSON line a step; log.jsonl beside the model.")] = None,
    seed: Annotated[int, typer.Option(help="Of the weights and of the order of the data.")] = 0,
    learning_rate: Annotated[float | None, typer.Option(help="At its peak; by the preset.")] = None,
    batch_sequences: Annotated[int | None, typer.Option(help="Sequences a step; by the preset.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens; the preset's context.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; by the preset.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Cores to compute on.")] = 2,
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="What kiban plan search --write wrote: model, batch, precision.")
    ] = None,
    layout_file: Annotated[
        Path | None,
        typer.Option("--layout", help="How several ranks share the work (docs/scale-out.md); with torchrun."),
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Start from these weights (Hugging Face layout), not from the seed.")
    ] = None,
    other: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other setting of [training], as in kiban.toml."),
    ] = None,
    tensorboard: Annotated[bool, typer.Option(help="Event files in TO/tensorboard.")] = False,
    tracker: Annotated[str | None, typer.Option(help="A module, or a .py file, with wandb's calls.")] = None,
    profile: Annotated[bool, typer.Option(help="A trace of three steps for Perfetto: TO/trace.json.gz.")] = False,
) -> None:
    """Trains outside a programme. Interrupt it and run it again: it goes on. SIGTERM saves, and the exit code is 0.

    Example: kiban train --preset nano --data packed --steps 100 --json-log log.jsonl --set on_spike=skip
    On several ranks: torchrun --nproc-per-node 2 -m kiban.training --data packed --steps 100 --layout layout.toml
    """
    from kiban.model.hf_config import read_config
    from kiban.model.presets import preset as config_of
    from kiban.planning.plan_file import read_plan
    from kiban.tokenizer.bpe import Tokenizer
    from kiban.tokenizer.packing import TokenStore
    from kiban.training.distributed import rank_of_torchrun, started_by_torchrun
    from kiban.training.interrupts import Stopped
    from kiban.training.loop import Watching
    from kiban.training.loop import train as run
    from kiban.training.stage import write_run

    given = {
        "preset": preset,
        "seed": seed,
        "learning_rate": learning_rate,
        "batch_sequences": batch_sequences,
        "sequence_length": sequence_length,
        "dtype": dtype,
        "threads": threads,
    }
    chosen = {name: value for name, value in given.items() if value is not None} | _assigned(other or [])
    plan = read_plan(plan_file) if plan_file else None
    if plan_file and plan:
        chosen |= _planned(plan, plan_file, chosen)
    elif steps is None:
        raise KibanError("--steps: say how many, or give a --plan")
    settings = _settings(chosen)
    first = rank_of_torchrun() == 0
    if layout_file and not started_by_torchrun():
        raise KibanError(f"--layout {layout_file}: start the ranks with torchrun -m kiban.training")
    store, progress = TokenStore.open(data), Progress(quiet=not first)
    if plan_file and plan:
        config = _planned_model(plan, plan_file, store.vocab_size, progress)
    else:
        config = read_config(start) if start and not preset else config_of(preset or "nano", store.vocab_size)
    config = config.model_copy(update={"num_nextn_predict_layers": int(settings.mtp)})
    settings = settings.resolved(config)
    words = Tokenizer.load(data) if (data / "tokenizer.json").is_file() else None
    for folder in (data, start):
        if folder and (folder / "tokenizer.json").is_file() and Tokenizer.load(folder).digest != store.tokenizer:
            raise KibanError(f"{data}: not packed with the tokenizer.json in {folder}; pack the text again with that")
    log, checkpoints = json_log or to / "log.jsonl", to / "checkpoints"
    if log.exists() and not checkpoints.exists():
        raise KibanError(f"{log}: there already, and not of a run in {to}; give another --json-log, or remove it")
    per_step = (settings.batch_sequences or 0) * (settings.sequence_length or 0)
    if plan_file and plan:
        steps = _planned_steps(plan, plan_file, steps, per_step, progress)
    settings = settings.model_copy(update={"tokens": (steps or 1) * per_step})
    watching = Watching(
        tensorboard=to / "tensorboard" if tensorboard else None,
        tracker=tracker,
        profile=to / "trace.json.gz" if profile else None,
    )
    try:
        if words is not None and first:  # with the run from its first checkpoint on, which can be exported too
            to.mkdir(parents=True, exist_ok=True)
            words.save(to)
        if started_by_torchrun():
            from kiban.training.distributed import process_group
            from kiban.training.layout import layout_of_ranks

            with process_group(settings.rank_timeout_seconds):
                layout = layout_of_ranks(layout_file or plan_file)
                done = run(config, store, settings, log, checkpoints, progress, start, watching, layout)
        else:
            done = run(config, store, settings, log, checkpoints, progress, start, watching)
        if not first:
            return
        write_run(done, words, to)
    except Stopped as stopped:
        if stopped.signal != signal.SIGTERM:
            raise
        print(f"{to}: {stopped}; the same command goes on")
        return
    except OSError as error:
        raise KibanError(
            f"{to}: cannot be written ({error.strerror}); the checkpoints there stand: mend that, and run it again"
        ) from None
    print(f"{to}: loss {done.loss:.4f} after {done.num_steps} steps, {done.tokens_per_s:.0f} tokens/s")
    if plan_file and plan:
        _recorded(done, plan, plan_file, log, to, store.fingerprint)


def _planned(plan: "Plan", file: Path, given: dict[str, Any]) -> dict[str, Any]:
    """What the plan decides. Raises KibanError if an option says otherwise."""
    from kiban.planning.plan_file import settings_of
    from kiban.training.distributed import started_by_torchrun

    decided = settings_of(plan, file, started_by_torchrun())
    if not plan.preset and "preset" in given:
        raise KibanError(f"--preset {given['preset']}: {file} is for a model of its own; leave it out, or plan anew")
    for name, value in decided.items():
        if name in given and given[name] != value:
            raise KibanError(f"{_option(name)} {given[name]}: {file} says {value}; leave it out, or plan anew")
    return decided


def _planned_model(plan: "Plan", file: Path, vocabulary: int, progress: Progress) -> "ModelConfig":
    """A preset's vocabulary is that of the data; a model of its own is as it is."""
    if not plan.preset or plan.model.vocab_size == vocabulary:
        return plan.model
    progress.say(f"{file}: planned with a vocabulary of {plan.model.vocab_size}; that of the data is {vocabulary}")
    return plan.model.model_copy(update={"vocab_size": vocabulary})


def _planned_steps(plan: "Plan", file: Path, asked: int | None, per_step: int, progress: Progress) -> int:
    planned = max(1, plan.tokens // per_step)
    if asked is None or asked == planned:
        return planned
    if asked > planned:
        raise KibanError(f"--steps {asked}: {file} has tokens for {planned}; leave it out, or plan with more --tokens")
    progress.say(f"{file}: {asked} of the {planned} steps that are planned")
    return asked


def _recorded(done: "Run", plan: "Plan", file: Path, log: Path, to: Path, data: str) -> None:
    """Adds the run to `history.json` beside its folder, and says how it went against the plan."""
    import torch

    from kiban.planning.hardware import gpu_of_device
    from kiban.planning.history import append, run_row
    from kiban.programme.runner import hardware
    from kiban.training.stage import consumed

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU: {hardware()}"
    card = gpu_of_device(device)
    row = run_row(
        name=to.absolute().name,
        config=done.model.config,
        sequence_length=plan.sequence_length,
        layout=plan.layout,
        device=device,
        card=card,
        tokens=done.tokens,
        tokens_per_s=done.tokens_per_s,
        seconds=done.seconds,
        mfu=done.mfu,
        memory_bytes=max(json.loads(line)["memory_bytes"] for line in log.read_text(encoding="utf-8").splitlines()),
        loss=done.loss,
        data=consumed(done)
        | {"digest": data, "optimiser": done.settings.optimiser, "schedule": done.settings.schedule},
    )
    history = to.absolute().parent / "history.json"
    append(history, row)
    planned = plan.predicted.tokens_per_s_per_gpu
    where = "" if card and card.name == plan.gpu.name else f" for {plan.gpu.name}, and this is {device}"
    print(f"{file}: planned {planned:.0f} tokens/s{where}; kiban plan check {history} compares")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}" if name in (*OPTIONS, "preset") else f"--set {name}"


def _settings(given: dict[str, Any]) -> "TrainingSettings":
    from kiban.training.settings import TrainingSettings

    try:
        return TrainingSettings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise KibanError(f"--set: {first['msg'].removeprefix('Value error, ')}") from None
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            known = sorted({*TrainingSettings.model_fields} - {"tokens", "preset"})
            raise KibanError(f"--set {name}: there is no such setting; there are {', '.join(known)}") from None
        raise KibanError(
            f"{_option(name)} {first['input']}: {first['msg'].removeprefix('Value error, ').lower()}"
        ) from None


def _assigned(pairs: list[str]) -> dict[str, Any]:
    """`NAME=VALUE`, the value as in TOML, or a word without quotes."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name in ("tokens", "preset"):
            raise KibanError(f"--set {pair}: write it as NAME=VALUE; what is read is set by --steps and --preset")
        try:
            values[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            values[name] = value
    return values


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise KibanError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise KibanError(f"{path}: not UTF-8 (byte {error.start}); convert it first") from None
