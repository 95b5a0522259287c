"""`kiban ladder` and `kiban forecast`: small models of a programme, and what they say of the next ones."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kiban.artifacts.errors import KibanError
from kiban.artifacts.progress import Progress
from kiban.cli.show import duration, print_json

if TYPE_CHECKING:
    from kiban.planning.forecast import Back, Bound, Next, Reach
    from kiban.planning.own_runs import Gathered
    from kiban.planning.quote import Asked
    from kiban.planning.scaling import Estimate, Law


def ladder(folder: Annotated[Path, typer.Argument(help="A programme with a [ladder].")] = Path()) -> None:
    """Trains the small models that a programme's [ladder] lists. Interrupt it and run it again: it goes on.

    Example: kiban ladder recipes/ladder
    """
    from kiban.programme import graph, runner
    from kiban.programme.settings import load

    programme = load(folder)
    if programme.ladder is None:
        raise KibanError(f'{folder}: has no [ladder]; add one: sizes = ["128", "192", "nano"], tokens = ["500k", "1M"]')
    rungs = programme.ladder.rungs(programme.training)
    measured = any(c.metric.startswith("evaluation.") for m in programme.milestones for c in m.criteria)
    store, progress = graph.store_of(programme), Progress()
    for number, training in enumerate(rungs, 1):
        progress.say(f"rung {number} of {len(rungs)}: {training.preset}, {training.tokens} tokens")
        rung = programme.model_copy(update={"training": training})
        nodes = graph.up_to(graph.nodes(rung), "evaluation" if measured else "model")
        runner.make(programme.programme.name, runner.plan(nodes, store), store, progress)
    print(f"{len(rungs)} models are made; kiban forecast {folder} says what follows from them")


def forecast(
    folder: Annotated[Path | None, typer.Argument(help="A programme; its store's models are what is known.")] = None,
    history: Annotated[Path | None, typer.Option(help="Runs of kiban train --plan, instead of a programme.")] = None,
    preset: Annotated[str | None, typer.Option(help="The next model; the smallest preset beyond what was run.")] = None,
    tokens: Annotated[str | None, typer.Option(help="That it reads; 20 for each active parameter.")] = None,
    gpu: Annotated[str, typer.Option(help="That its cost is planned for.")] = "h100",
    gpus: Annotated[int, typer.Option(min=1, help="How many.")] = 8,
    hardware: Annotated[Path | None, typer.Option(help="A TOML file with other GPUs.")] = None,
    price_file: Annotated[Path | None, typer.Option("--prices", help="A TOML file with other prices.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What the next model will reach and cost, and what each milestone takes, from the runs there are.

    Example: kiban forecast recipes/ladder --preset tiny --gpu h100 --gpus 8
    """
    from kiban.cli.plan import asked_for
    from kiban.planning import forecast as forecasting
    from kiban.planning.own_runs import of_history
    from kiban.planning.published import read_rows
    from kiban.planning.quote import best
    from kiban.planning.scaling import FEWEST_RUNS, FEWEST_SIZES, fit_law

    if history is not None and folder is not None:
        raise KibanError("--history: give it or a programme, not both")
    if history is not None:
        gathered, bounds = of_history(read_rows(history)), list["Bound"]()
    else:
        gathered, bounds = _of_programme(folder or Path())
    runs = gathered.runs
    law = fit_law([run.observed for run in runs])
    if law is None:
        sizes = len({run.observed.parameters for run in runs})
        raise KibanError(
            f"{history or folder or Path()}: {len(runs)} comparable runs of {sizes} sizes; a law takes "
            f"{FEWEST_RUNS} of {FEWEST_SIZES}, with more than one number of tokens: kiban ladder trains small ones"
        )
    later = forecasting.next_model(law, runs, preset, _tokens(tokens))
    asked = asked_for(later.preset, runs[0].vocabulary, gpu, later.tokens, hardware, price_file)
    quote = best(asked, gpus)
    back = forecasting.backtest(runs)
    reached = [forecasting.reach(law, runs, bound, later.parameters) for bound in bounds]
    costs = [_cost(one, asked, gpus, runs[0].vocabulary) for one in reached]
    if as_json:
        print_json(_finite(_as_table(gathered, law, back, later, quote, reached, costs)))
        return
    _show(gathered, law, back, later, asked, quote, gpus)
    _show_bounds(reached, costs, later, f"{gpus} x {asked.card.name}")


def _of_programme(folder: Path) -> tuple["Gathered", list["Bound"]]:
    from kiban.planning.forecast import Bound
    from kiban.planning.own_runs import of_store
    from kiban.programme import graph
    from kiban.programme.settings import load

    programme = load(folder)
    bounds = [
        Bound(
            milestone.id,
            milestone.due.isoformat(),
            criterion.metric,
            "at_least" if criterion.at_least is not None else "at_most",
            criterion.bound,
        )
        for milestone in programme.milestones
        for criterion in milestone.criteria
    ]
    return of_store(graph.store_of(programme).all()), bounds


def _tokens(text: str | None) -> int | None:
    from kiban.cli.plan import tokens_of

    return None if text is None else tokens_of(text)


def _cost(reach: "Reach", asked: "Asked", gpus: int, vocabulary: int) -> dict[str, float] | None:
    """Days, GPU-hours and yen of the best run that meets a bound, by the planner."""
    from kiban.model.presets import of_width
    from kiban.planning.forecast import width_of
    from kiban.planning.quote import best
    from kiban.planning.shape import shape_of

    if reach.parameters is None or reach.tokens is None:
        return None
    config = of_width(width_of(reach.parameters, vocabulary), vocabulary)
    there = dataclasses.replace(
        asked, shape=shape_of(config), length=config.max_position_embeddings, tokens=int(reach.tokens)
    )
    found = best(there, gpus)
    if found is None:
        return None
    running = found.running
    return {"gpus": gpus, "days": running.days, "gpu_hours": running.gpu_hours, "jpy": running.jpy}


def _as_table(
    gathered: "Gathered",
    law: "Law",
    back: list["Back"],
    later: "Next",
    quote: Any,
    reached: list["Reach"],
    costs: list[dict[str, float] | None],
) -> dict[str, Any]:
    errors = sorted(abs(one.relative_error) for one in back)
    each = [dataclasses.asdict(run.observed) | {"flops": run.observed.flops} for run in gathered.runs]
    compute = [run.observed.flops for run in gathered.runs]
    spots = [compute[-1] * times for times in (1, 10, 100)]
    return {
        "runs": each,
        "left_out": [{"name": name, "reason": reason} for name, reason in gathered.left_out],
        "law": {
            "form": "loss = E + A / parameters^alpha + B / tokens^beta",
            "numbers": {name: dataclasses.asdict(x) for name, x in law.numbers().items()},
            "noise": law.noise,
            "by_compute": [
                {"flops": flops}
                | {
                    name: dataclasses.asdict(x)
                    for name, x in zip(("parameters", "tokens", "loss"), law.at_compute(flops), strict=True)
                }
                for flops in spots
            ],
        },
        "backtest": {
            "runs": [
                dataclasses.asdict(one) | {"relative_error": one.relative_error, "inside": one.inside} for one in back
            ],
            "median_abs_error": errors[len(errors) // 2] if errors else None,
        },
        "next": dataclasses.asdict(later)
        | {
            "cost": None
            if quote is None
            else dataclasses.asdict(quote.running) | {"gpus": quote.gpus, "layout": str(quote.candidate.layout)}
        },
        "milestones": [
            dataclasses.asdict(one.bound)
            | {name: value for name, value in dataclasses.asdict(one).items() if name != "bound"}
            | {"cost": cost}
            for one, cost in zip(reached, costs, strict=True)
        ],
    }


def _finite(value: Any) -> Any:
    """JSON knows no infinity: None."""
    if isinstance(value, dict):
        return {key: _finite(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show(
    gathered: "Gathered", law: "Law", back: list["Back"], later: "Next", asked: "Asked", quote: Any, gpus: int
) -> None:
    from kiban.planning.forecast import MOST_REACH

    runs = gathered.runs
    sizes = sorted({run.observed.parameters for run in runs})
    amounts = sorted(run.observed.tokens for run in runs)
    print(f"{len(runs)} runs of {len(sizes)} sizes, {sizes[0]:.2g} to {sizes[-1]:.2g} active parameters, "
          f"{amounts[0]:.2g} to {amounts[-1]:.2g} tokens")  # fmt: skip
    for name, reason in gathered.left_out:
        print(f"  left out: {name}: {reason}")
    numbers = law.numbers()
    print("loss = E + A / parameters^alpha + B / tokens^beta, in nats/token (95 % interval):")
    print("  " + ", ".join(f"{name} {_told(numbers[name])}" for name in ("E", "alpha", "beta")))
    if back:
        errors = sorted(abs(one.relative_error) for one in back)
        inside = sum(one.inside for one in back)
        print(f"Backtest: the largest size from the smaller ones: median error {100 * errors[len(errors) // 2]:.1f} %, "
              f"worst {100 * errors[-1]:.1f} %; {inside} of {len(back)} within their interval")  # fmt: skip
        for one in back:
            print(f"  {one.name}: predicted {_told(one.predicted)}, measured {one.measured:.3f}")
    else:
        print("Backtest: without the largest size too little is left to fit")
    print(f"\nNext, {later.preset} ({later.parameters:.3g} active parameters) on {later.tokens:.3g} tokens, "
          f"{later.times:.2g} times the compute of the largest run:")  # fmt: skip
    if later.times > MOST_REACH:
        print(f"  beyond {MOST_REACH:.0f} times the largest run no law is known to hold: train larger ones first")
    print(f"  loss {_told(later.loss)} nats/token, with the same data and vocabulary")
    print(f"  its compute is best spent with {_told(later.best_tokens, '.2g')} tokens")
    if quote is None:
        print(f"  fits on no layout of {gpus} x {asked.card.name}; give --gpus")
    else:
        running = quote.running
        print(f"  on {gpus} x {asked.card.name}: {duration(running.days)}, {running.gpu_hours:.3g} GPU-hours, "
              f"{running.jpy:.3g} yen (prices of {asked.costs.date})")  # fmt: skip


def _show_bounds(reached: list["Reach"], costs: list[dict[str, float] | None], later: "Next", where: str) -> None:
    for one, cost in zip(reached, costs, strict=True):
        bound = one.bound
        sign = "at least" if bound.direction == "at_least" else "at most"
        print(f"\n{bound.milestone} (due {bound.due}): {bound.metric} {sign} {bound.bound:g}")
        if one.status != "forecast" or one.flops is None or one.parameters is None:
            print(f"  {one.status}: {one.reason}")
            continue
        model = f"{one.parameters:.2g} active parameters on {one.tokens:.2g} tokens"
        print(f"  met with {_told(one.flops, '.2g')} FLOP: {model}")
        if cost:
            print(f"  {duration(cost['days'])} on {where}, {cost['jpy']:.3g} yen")
        own = f"with {_told(one.next_tokens, '.2g')} tokens" if one.next_tokens else "with no number of tokens"
        print(f"  {later.preset} meets it {own}")


def _told(x: "Estimate", form: str = ".3f") -> str:
    high = format(x.high, form) if math.isfinite(x.high) else "no bound"
    return f"{x.value:{form}} ({x.low:{form}} to {high})"
