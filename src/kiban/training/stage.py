"""The stage `model`: packed tokens -> a trained model."""

from pathlib import Path

from kiban.artifacts.manifest import Metric
from kiban.artifacts.progress import Progress
from kiban.artifacts.stage import Outcome, stage
from kiban.artifacts.store import Artifact
from kiban.training.settings import TrainingSettings

# Openings for the sample generations, one a register.
PROMPTS = (
    "春になると、",
    "この町の市場では、",
    "いつもお世話になっております。",
    "平素は格別のご高配を賜り、",
    "作業を始める前に、",
    "手順1",
    "点検の結果、",
    "注意：",
    "お電話ありがとうございます。",
    "赤い立方体を",
    "恐れ入りますが、青い円柱を",
    "会議では、",
)


@stage("model", inputs=("tokens", "tokenizer"), version=1, use="pretrain")
def model(settings: TrainingSettings, tokens: Artifact, tokenizer: Artifact, out: Path, progress: Progress) -> Outcome:
    """Trains the preset on the tokens: config.json, model.safetensors, log.jsonl, samples.json."""
    from safetensors.torch import save_file

    from kiban.artifacts.files import write_json
    from kiban.model.generate import generate
    from kiban.model.presets import preset
    from kiban.tokenizer.bpe import Tokenizer
    from kiban.tokenizer.packing import TokenStore
    from kiban.training.loop import LOG, train

    data = TokenStore.open(tokens.path)
    config = preset(settings.preset, data.vocab_size).model_copy(update={"num_nextn_predict_layers": int(settings.mtp)})
    run = train(config, data, settings, out / LOG, out / ".work" / "checkpoints", progress)

    write_json(out / "config.json", config.model_dump())
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in run.model.state_dict().items()}
    save_file(state, out / "model.safetensors")
    words = Tokenizer.load(tokenizer.path)
    samples = []
    for number, prompt in enumerate(PROMPTS):
        ids = [words.bos_id, *words.encode(prompt)]
        drawn = generate(run.model, ids, 64, temperature=0.8, top_p=0.95, seed=number, stop_ids=(words.eos_id,))
        continuation = [token for token, _ in drawn if token != words.eos_id]
        samples.append({"prompt": prompt, "continuation": words.decode(continuation), "temperature": 0.8})
    write_json(out / "samples.json", samples)

    parameters = config.parameters()
    length = settings.sequence_length or config.max_position_embeddings
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
        consumed={
            "sequences": [0, run.num_steps * settings.batch_sequences],
            "num_sequences": run.num_sequences,
            "sequence_length": length,
            "batch_sequences": settings.batch_sequences,
            "seed": settings.seed,
        },
    )
