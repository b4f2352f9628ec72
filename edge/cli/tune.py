"""`edge tune`: measure which variant, engine and settings are best here, and write it down."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from edge import config as configuration
from edge import tuning
from edge.accelerators import AUTO, EngineRequest, Settings
from edge.bundle import Bundle
from edge.cli import logs, model_options, tables
from edge.errors import ConfigError
from edge.tuning import Figures, Objective, Record

if TYPE_CHECKING:
    from edge.tuner.energy import Meter
    from edge.tuner.session import Progress, Result, Wanted

_ANYTHING = EngineRequest(accelerator=AUTO, policy="any")
_SHOWN = 12


@dataclasses.dataclass(slots=True)
class _Task:
    """One bundle, and what is asked of it: `variants` empty for all."""

    bundle: Bundle
    requests: list[EngineRequest]
    variants: set[str]


@click.command("tune")
@click.argument("target", default="edge.toml", metavar="[BUNDLE|CONFIG]")
@click.option(
    "--objective", type=click.Choice(get_args(Objective)), default="latency", show_default=True,
    help="What counts: the time of one inference, inferences a second, memory, or energy.",
)  # fmt: skip
@click.option(
    "--max-accuracy-drop", type=click.FloatRange(min=0), metavar="SHARE",
    help="The loss against the original that a variant may have; else the bundle's own gate.",
)  # fmt: skip
@click.option(
    "--max-rss-mb", type=click.FloatRange(min=0, min_open=True), metavar="MB",
    help="The resident memory that a process may need with it alone.",
)  # fmt: skip
@click.option(
    "--streams", type=click.IntRange(min=1), default=1, show_default=True,
    help="How many streams there will be, for the objective throughput.",
)  # fmt: skip
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), default=2.0, show_default=True,
    help="How long to measure each bundle; proofs come on top.",
)  # fmt: skip
@click.option(
    "--state-dir", default="", help="Where an agent keeps its state  [default: edge-state]"
)
@click.option("--show", is_flag=True, help="Show the record that there is; measure nothing.")
@model_options.model_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    target: str,
    objective: Objective,
    max_accuracy_drop: float | None,
    max_rss_mb: float | None,
    streams: int,
    minutes: float,
    state_dir: str,
    show: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure on this device which variant, engine and settings are best, among those that are
    right, and write a record that `edge run` uses for variant = "auto".

    BUNDLE is a directory, a .tar, builtin:NAME or a model file, with the --state-dir of the agent;
    CONFIG is an edge.toml, of which every bundle is tuned as its pipelines may use it. Variants
    whose golden answers are wrong here, or that are in quarantine, take no part. Let nothing else
    run meanwhile: what is noticed of other processes and of throttling is said, and marks the
    record as noisy.

    Ctrl-C ends it early: the best so far is said, and written if enough was measured for that. The
    record is void when the processor, its cores, a runtime's version or the bundle changes.
    """
    logs.configure(quiet=True)
    folder, tasks = _tasks(target, state_dir, given)
    if show:
        _show_all(folder, tasks, as_json)
        return
    if streams > 1 and objective != "throughput":
        raise ConfigError("--streams goes with --objective throughput")
    from edge.engines import deaths, guard
    from edge.tuner import energy
    from edge.tuner.session import Wanted

    meter = energy.find() if objective == "energy" else None
    wanted = Wanted(
        objective=objective,
        max_accuracy_drop=max_accuracy_drop,
        max_rss_mb=max_rss_mb,
        streams=streams,
        budget_s=minutes * 60,
    )
    deaths.arm(folder)
    kept = guard.Guard(folder)
    answers = []
    for task in tasks:
        result = _tune(task, kept, wanted, meter, quiet=as_json)
        answers.append(_answer(task, folder, result, as_json))
        if result.interrupted:
            break
    if as_json:
        click.echo(json.dumps({"tuned": answers}))
    if result.interrupted:
        raise click.exceptions.Exit(130)


def _tasks(target: str, state_dir: str, given: dict[str, Any]) -> tuple[Path, list[_Task]]:
    """The state directory, and every bundle once."""
    if not target.endswith(".toml"):
        from edge.model import open_any

        bundle = open_any(target, model_options.hints_of(given))
        return Path(state_dir or "edge-state"), [_Task(bundle, [_ANYTHING], set())]
    used = [f"--{name.replace('_', '-')}" for name in model_options.NAMES if given[name]]
    if state_dir or used:
        raise ConfigError(
            f"{', '.join([*(['--state-dir'] if state_dir else []), *used])}: only with a BUNDLE;"
            f" {target} says it"
        )
    config = configuration.load(target)
    found: dict[str, _Task] = {}
    for pipeline in config.pipelines:
        _add(found, pipeline.bundle, pipeline.request, pipeline.variant)
        for stage in pipeline.stages:
            request = EngineRequest(
                accelerator=stage.accelerator, settings=Settings(threads=stage.threads)
            )
            _add(found, stage.bundle, request, stage.variant)
    return Path(config.device.state_dir), [*found.values()]


def _add(found: dict[str, _Task], path: str, request: EngineRequest, variant: str) -> None:
    from edge.model import open_any

    bundle = open_any(path)
    task = found.setdefault(bundle.identity, _Task(bundle, [], set()))
    task.requests.append(request)
    names = [one.name for one in task.bundle.manifest.variants]
    task.variants |= {*names} if variant == AUTO else {variant}
    if variant not in (AUTO, *names):
        raise ConfigError(f"{path}: no variant {variant!r}; there are {', '.join(names)}")


def _tune(task: _Task, guard: Any, wanted: Wanted, meter: Meter | None, *, quiet: bool) -> Result:
    from edge.tuner.session import tune

    with _screen(task.bundle.manifest.name, quiet=quiet) as screen:
        return tune(
            task.bundle,
            guard,
            wanted,
            requests=task.requests,
            variants=task.variants,
            meter=meter,
            tell=screen,
        )


# ---- progress


@contextmanager
def _screen(name: str, *, quiet: bool) -> Iterator[Any]:
    """A live table for a person at a terminal with rich, a line a lap else; to standard error."""
    if quiet:
        yield lambda progress: None
        return
    try:
        from rich.console import Console, Group
        from rich.live import Live
    except ImportError:
        yield _Lines(name)
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(name)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as view:
        yield lambda progress: view.update(
            Group(_headline(name, progress), tables.build(*_standings(progress)))
        )


class _Lines:
    """Progress as lines: each lap, and each phase once."""

    def __init__(self, name: str) -> None:
        self._name, self._phase = name, ""

    def __call__(self, progress: Progress) -> None:
        if progress.phase == self._phase and progress.phase != "measure":
            return
        self._phase = progress.phase
        line = _headline(self._name, progress)
        if progress.standings:
            best = progress.standings[0]
            line += f"; best {best.cost:.4g}: {best.candidate}"
        click.echo(line, err=True)


def _headline(name: str, progress: Progress) -> str:
    spent = f" ({progress.spent_s:.0f} s)" if progress.spent_s else ""
    return f"{name}: {progress.phase} {progress.detail}{spent}"


def _standings(progress: Progress) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            "" if one.alive else "out",
            str(one.candidate),
            f"{one.cost:.4g}",
            f"{one.low:.4g} to {one.high:.4g}",
            str(one.laps),
        ]
        for one in progress.standings[:_SHOWN]
    ]
    return ["", "candidate", "cost", "middle half", "laps"], rows


# ---- what came of it


def _answer(task: _Task, folder: Path, result: Result, as_json: bool) -> dict[str, Any]:
    name, record, best = task.bundle.manifest.name, result.record, result.best
    path = ""
    if record is not None:
        from edge.tuner.session import keep

        path = str(keep(folder, record))
    if as_json:
        return {
            "bundle": name,
            "path": path,
            "interrupted": result.interrupted,
            "laps": result.laps,
            "repeated": result.repeated,
            "best": str(best.candidate) if best else "",
            "record": msgspec.to_builtins(record),
        }
    if result.interrupted:
        click.echo(f"{name}: ended early, after {result.laps} laps")
    if record is None:
        click.echo(
            f"{name}: not enough was measured to write it down; the best so far:"
            f" {best.candidate if best else 'nothing yet'}"
        )
    else:
        _print(name, record)
        click.echo(f"written to {path}")
    return {}


def _show_all(folder: Path, tasks: Sequence[_Task], as_json: bool) -> None:
    answers = []
    for task in tasks:
        name = task.bundle.manifest.name
        record, reason = tuning.read(folder, task.bundle.identity)
        look, _ = tuning.read(folder, task.bundle.identity, look=True)
        if record is None and not reason and look is None and not as_json:
            raise ConfigError(
                f"{folder}: no tuning record of {name}; `edge tune {task.bundle.path}` makes one"
            )
        if as_json:
            front = [row.label for row in record.front] if record else []
            answers.append(
                {"bundle": name, "void": reason, "front": front,
                 "record": msgspec.to_builtins(record), "look": msgspec.to_builtins(look)}
            )  # fmt: skip
            continue
        if reason:
            click.echo(f"{name}: its record is void: {reason}")
        shown = record or look
        if shown is not None:
            _print(name, shown)
    if as_json:
        click.echo(json.dumps({"records": answers}))


def _print(name: str, record: Record) -> None:
    """The best, the front, and what took no part."""
    goal: str = record.objective
    if record.streams > 1:
        goal += f" of {record.streams} streams"
    click.echo(f"{name}: {goal}, measured {record.wall}")
    click.echo(f"best: {record.ranking[0].label}")
    if record.max_accuracy_drop is not None:
        click.echo(f"no variant that loses more than {record.max_accuracy_drop:g} of accuracy")
    if record.max_rss_mb is not None:
        click.echo(f"none that needs more than {record.max_rss_mb:g} MB")
    if record.noisy:
        click.echo(f"noisy: {record.noisy}; tune again when the machine is quiet")
    front = record.front
    shown = dict.fromkeys([record.ranking[0], *front, *_best_of_each(record.ranking)])
    header = ["", "variant", "engine", "settings", "ms", "spread", "a second", "MB", "mJ", "loss"]
    rows = [_row(row, row in front) for row in shown]
    told = [number for number in range(len(header)) if any(row[number] for row in rows)]
    tables.show([header[n] for n in told], [[row[n] for n in told] for row in rows])
    click.echo("*: nothing else is as fast, as small and as exact at once")
    for what, why in record.refused.items():
        click.echo(f"not taken: {what}: {why}")


def _best_of_each(ranking: Sequence[Figures]) -> list[Figures]:
    best: dict[tuple[str, str, str], Figures] = {}
    for row in ranking:
        best.setdefault((row.variant, row.engine, row.accelerator), row)
    return [*best.values()]


def _row(row: Figures, on_front: bool) -> list[str]:
    slots = f", {row.slots} slots" if row.slots > 1 else ""
    latency = row.latency_ms
    return [
        "*" if on_front else "",
        row.variant,
        f"{row.engine}:{row.accelerator}",
        f"{row.settings}{slots}",
        f"{latency.median:.4g}",
        f"{(latency.high - latency.low) / latency.median:.0%}" if latency.median else "",
        f"{row.frames_per_s:.0f}" if row.frames_per_s >= 10 else f"{row.frames_per_s:.2g}",
        "" if row.rss_mb is None else f"{row.rss_mb:.0f}",
        "" if row.energy_mj is None else f"{row.energy_mj:.3g}",
        "" if row.accuracy_drop is None else f"{row.accuracy_drop:.4f}",
    ]
