"""`kiban verify`: evidence checked offline."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kiban.artifacts.errors import KibanError
from kiban.cli.show import print_json


def verify(
    bundle: Annotated[Path, typer.Argument(help="evidence/<MILESTONE>.dsse.json")],
    keys: Annotated[Path | None, typer.Option(help="A folder with partners' public keys, <partner>.pem.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Checks every signature and re-derives the verdict from the manifests in the bundle. Exit code 1 if it fails.

    Example: kiban verify recipes/demo/evidence/M1.dsse.json --keys recipes/demo/keys
    """
    from kiban.milestones.envelope import read_envelope, read_public_key
    from kiban.milestones.evidence import verify as check

    trusted = None
    if keys is not None:
        trusted = {path.stem: read_public_key(path) for path in sorted(keys.glob("*.pem"))}
        if not trusted:
            raise KibanError(f"{keys}: no <partner>.pem in it")
    report = check(read_envelope(bundle), trusted)
    if as_json:
        print_json(asdict(report) | {"verified": report.failure is None})
    else:
        for line in report.checks:
            print(f"  ok    {line}")
        if report.failure:
            print(f"  FAILED {report.failure}")
        else:
            for row in report.criteria:
                print(f"  {'met' if row['met'] else 'not met':8}{row['metric']} = {row['value']} ({_bound(row)})")
            print(f"{report.milestone} {report.title}: {report.verdict.upper()}")
        if report.demo_keys:
            print("demo keys: one machine made all of them; this proves the mechanism, not who agreed")
        if report.keys_from_bundle:
            print("keys were taken from the bundle itself; --keys FOLDER checks against those you trust")
    if report.failure:
        raise typer.Exit(1)


def _bound(row: dict[str, object]) -> str:
    return f"{'at least' if row['direction'] == 'at_least' else 'at most'} {row['bound']}"
