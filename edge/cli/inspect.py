"""`edge inspect`: what a bundle holds, and whether it is right on this machine."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click
import msgspec

from edge.bundle import Bundle, model_format
from edge.cli import logs, model_options, tables
from edge.errors import BundleError, EngineError
from edge.manifest import Manifest


@click.command("inspect")
@click.argument("bundle")
@model_options.model_options
@click.option("--run", "run_cases", is_flag=True, help="Run the golden cases of every variant.")
@click.option("--markdown", is_flag=True, help="Only the table of variants, for a README.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(bundle: str, run_cases: bool, markdown: bool, as_json: bool, **given: Any) -> None:
    """Verify BUNDLE (a directory, a .tar, or builtin:NAME) and show what it holds.

    An .onnx or .tflite file is recognised instead: what it is for, what is assumed of it, and by
    which option each assumption is overridden, here and in `edge run --model`.
    """
    logs.configure(quiet=True)
    if model_format(bundle):
        from edge.recognize.bundles import recognize_file

        recognition, made = recognize_file(bundle, model_options.hints_of(given))
        if as_json:
            notes = [msgspec.to_builtins(note) for note in recognition.assumptions]
            manifest = msgspec.to_builtins(made.manifest)
            click.echo(json.dumps({"manifest": manifest, "assumptions": notes}))
        else:
            model_options.show(recognition)
        return
    opened = Bundle.open(bundle)
    golden = _run_cases(opened) if run_cases else {}
    if as_json:
        answer = {"identity": opened.identity, "manifest": msgspec.to_builtins(opened.manifest)}
        click.echo(json.dumps({**answer, **({"golden": golden} if run_cases else {})}))
    elif markdown:
        click.echo(tables.markdown(*variant_table(opened.manifest, golden)))
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
    """Header and rows: a column a variant, a row for each thing measured when it was built."""
    variants = manifest.variants
    rows = [
        ["size, KB", *(f"{manifest.files[variant.file].size / 1e3:.0f}" for variant in variants)],
        *(
            [
                f"max error of {output.name}",
                *(
                    f"{variant.parity[output.name].max_error:.2g}"
                    if output.name in variant.parity
                    else "-"
                    for variant in variants
                ),
            ]
            for output in variants[0].outputs
        ),
        *_metric_rows("agreement", [variant.agreement for variant in variants]),
        *_metric_rows("accuracy", [variant.accuracy for variant in variants]),
    ]
    if golden:
        verdicts = {True: "right", False: "WRONG", None: "not run"}
        results = [golden[variant.name] for variant in variants]
        rows.append(["golden cases here", *(verdicts[result["passed"]] for result in results)])
        rows.append(["engine here", *(str(result["engine"]) for result in results)])
    return ["", *(variant.name for variant in variants)], rows


def _metric_rows(kind: str, measured: list[dict[str, float]]) -> list[list[str]]:
    names = list(dict.fromkeys(name for values in measured for name in values))
    return [
        [
            f"{kind}: {name}",
            *(f"{values[name]:.4f}" if name in values else "-" for values in measured),
        ]
        for name in names
    ]


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )
