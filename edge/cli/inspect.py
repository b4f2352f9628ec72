"""`edge inspect`: what a bundle holds, and whether it is right on this machine."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click
import msgspec

from edge.bundle import Bundle
from edge.cli import logs, tables
from edge.errors import BundleError, EngineError
from edge.manifest import Manifest


@click.command("inspect")
@click.argument("bundle")
@click.option("--run", "run_cases", is_flag=True, help="Run the golden cases of every variant.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(bundle: str, run_cases: bool, as_json: bool) -> None:
    """Verify BUNDLE (a directory, a .tar, or builtin:NAME) and show what it holds."""
    logs.configure(quiet=True)
    opened = Bundle.open(bundle)
    golden = _run_cases(opened) if run_cases else {}
    if as_json:
        answer = {"identity": opened.identity, "manifest": msgspec.to_builtins(opened.manifest)}
        click.echo(json.dumps({**answer, **({"golden": golden} if run_cases else {})}))
    else:
        _print(opened, golden)
    wrong = [name for name, result in golden.items() if result["passed"] is False]
    if wrong:
        raise BundleError(f"{opened.path}: golden cases are wrong for {', '.join(wrong)}")


def _run_cases(bundle: Bundle) -> dict[str, dict[str, Any]]:
    from edge import golden
    from edge.model import Model

    results: dict[str, dict[str, Any]] = {}
    for variant in bundle.manifest.variants:
        try:
            with Model(bundle, variant=variant.name) as model:
                cases = golden.check(model)
                results[variant.name] = {
                    "engine": model.engine,
                    "passed": all(case.passed for case in cases),
                    "cases": [dataclasses.asdict(case) for case in cases],
                }
        except EngineError as error:
            results[variant.name] = {"engine": str(error), "passed": None, "cases": []}
    return results


def _print(bundle: Bundle, golden: dict[str, dict[str, Any]]) -> None:
    manifest = bundle.manifest
    click.echo(f"{manifest.name} {manifest.version}: {manifest.summary}")
    click.echo(f"identity   {bundle.identity}")
    click.echo(f"task       {manifest.task}, decoder {manifest.decoder.name}")
    click.echo(f"labels     {', '.join(manifest.labels)}")
    click.echo(f"licences   {_pairs(manifest.provenance.licences)}")
    click.echo(f"size       {sum(entry.size for entry in manifest.files.values()) / 1e6:.2f} MB\n")
    tables.show(*variant_table(manifest, golden))


def variant_table(
    manifest: Manifest, golden: dict[str, dict[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: what was measured of each variant when the bundle was built."""
    metrics = sorted({name for variant in manifest.variants for name in variant.accuracy})
    header = ["variant", "KB", "max error", "agreement", *metrics, *(["here"] if golden else [])]
    rows = []
    for variant in manifest.variants:
        worst = max((parity.max_error for parity in variant.parity.values()), default=None)
        row = [
            variant.name,
            f"{manifest.files[variant.file].size / 1e3:.0f}",
            "-" if worst is None else f"{worst:.2g}",
            _pairs(variant.agreement),
            *(
                f"{variant.accuracy[name]:.4f}" if name in variant.accuracy else "-"
                for name in metrics
            ),
        ]
        if golden:
            result = golden[variant.name]
            verdict = {True: "right", False: "WRONG", None: "not run"}[result["passed"]]
            row.append(f"{verdict} on {result['engine']}")
        rows.append(row)
    return header, rows


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )
