"""Fits the cost model's constants on published runs and reports how right they are on runs that the fit did not see.

Writes src/kiban/planning/constants.toml and held_out.json, and a record of the errors to benchmarks/results/.
Rows of tier A and B whose figures and layout were read in their source (`verified_level` full) are fitted; for every
(source, model) the constants are fitted again without its rows, and those predict it. Two minutes.

    python benchmarks/planning.py $KIBAN_DATA/published_runs.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import numpy as np  # noqa: E402
from record import RESULTS, circumstances, head, table  # noqa: E402

from kiban.planning.check import fingerprint  # noqa: E402
from kiban.planning.fit import PRIORS, fit, folds, held_out_errors, measured_step, predicted_steps  # noqa: E402
from kiban.planning.published import Run, Unmodelled, read_rows, read_run  # noqa: E402
from kiban.planning.step_time import Constants  # noqa: E402

PACKAGE = ROOT / "src" / "kiban" / "planning"
Errors = list[tuple[Run, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="published_runs.json")
    parser.add_argument("--only-report", action="store_true", help="leave the constants in the package as they are")
    options = parser.parse_args()
    rows = [
        row for row in read_rows(options.rows) if row.get("tier") in ("A", "B") and row.get("verified_level") == "full"
    ]
    runs = []
    for row in rows:
        try:
            runs.append(read_run(row))
        except Unmodelled as reason:
            print(f"row {row['id']}: {reason}")
    runs = [run for run in runs if measured_step(run)]
    print(f"{len(runs)} of {len(rows)} rows have a measured step and a whole layout")

    every = fit(runs)
    errors: dict[str, Errors] = {"training error, all rows": list(zip(runs, _errors(runs, every), strict=True))}
    held: list[Constants] = []
    fold_of: dict[str, int] = {}
    by_model: Errors = []
    parts = folds(runs, lambda run: (run.source, run.model))
    for number, (seen, out) in enumerate(parts):
        c = fit(seen)
        held.append({name: round(value, 8) for name, value in c.items()})
        by_model += zip(out, _errors(out, c), strict=True)
        fold_of |= {fingerprint(run.row): number for run in out}
        print(f"fold {number + 1} of {len(parts)}: {len(out)} rows", flush=True)
    errors["held out: (source, model)"] = by_model
    errors["held out: source"] = held_out_errors(runs, lambda run: run.source)
    errors["held out: GPU generation"] = held_out_errors(runs, lambda run: run.gpu.architecture)

    if not options.only_report:
        _write_constants(every)
        text = json.dumps({"rows": fold_of, "folds": held}, separators=(",", ":"))
        (PACKAGE / "held_out.json").write_text(text + "\n", encoding="utf-8")
    _report(errors, every, len(rows))


def _errors(runs: Sequence[Run], c: Constants) -> list[float]:
    steps = predicted_steps(runs, c)
    return [step / (measured_step(run) or 0.0) - 1 for run, step in zip(runs, steps, strict=True)]


def _write_constants(c: Constants) -> None:
    lines = [
        "# Efficiency constants of step_time.py, fitted by benchmarks/planning.py; what each means stands in fit.py.",
        "[constants]",
        *(f'"{name}" = {value:.5g}' for name, value in c.items()),
    ]
    (PACKAGE / "constants.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _report(errors: dict[str, Errors], c: Constants, num_rows: int) -> None:
    found = circumstances()
    lines = head("The cost model on published runs", found)
    lines += [f"Step time, predicted over measured; {len(errors['held out: (source, model)'])} of {num_rows} rows.", ""]
    cells = []
    for name, pairs in errors.items():
        sizes = sorted(abs(error) for _, error in pairs)
        cells.append(
            [name, *(f"{100 * v:.1f} %" for v in (np.quantile(sizes, 0.5), np.quantile(sizes, 0.9), sizes[-1]))]
        )
    lines += table(["", "median", "90th percentile", "worst"], cells)
    lines += ["By source and model, held out:", ""]
    cells = []
    for key in dict.fromkeys((run.source, run.model) for run, _ in errors["held out: (source, model)"]):
        out = [(run, e) for run, e in errors["held out: (source, model)"] if (run.source, run.model) == key]
        sizes = sorted(abs(e) for _, e in out)
        name = f"{key[0]}: {out[0][0].row['name'].split(' [')[0]}"
        mean = sum(e for _, e in out) / len(out)
        cells.append(
            [
                name,
                f"{len(out)}",
                f"{100 * mean:+.1f} %",
                f"{100 * np.quantile(sizes, 0.5):.1f} %",
                f"{100 * sizes[-1]:.1f} %",
            ]
        )
    lines += table(["first row", "rows", "mean error", "median size", "worst"], cells)
    lines += ["Constants:", ""]
    lines += table(["", "prior", "fitted"], [[n, f"{PRIORS[n].mean:g}", f"{v:.4g}"] for n, v in c.items()])
    file = RESULTS / f"planning_published-runs_{found['date'][:10]}.md"
    file.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines[:14]))
    print(file)


if __name__ == "__main__":
    main()
