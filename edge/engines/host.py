"""EngineHost: one engine for all pipelines that use the same (bundle, variant, accelerator).

Invariant: an engine is only ever run under its host's lock.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

from edge import seams
from edge.bundle import Bundle
from edge.errors import BundleError, EngineError
from edge.manifest import Variant
from edge.types import Array, TensorSpec

AUTO = "auto"


class EngineHost:
    """Owns one engine; `infer` may be called from any thread."""

    def __init__(
        self, bundle: Bundle, variant: Variant, *, accelerator: str = "cpu", threads: int = 0
    ) -> None:
        engine_class = seams.find("engines", variant.format)
        self._engine: seams.Engine = engine_class(
            bundle.read(variant.file),
            accelerator=accelerator,
            threads=threads or default_threads(),
        )
        self._lock = threading.Lock()
        try:
            _check_fit(bundle, variant, self._engine)
        except BundleError:
            self._engine.close()
            raise

    @property
    def name(self) -> str:
        """Where it runs, e.g. onnx:cpu."""
        return self._engine.name

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model once; the outputs belong to the caller."""
        with self._lock:
            return self._engine.run(inputs)

    def close(self) -> None:
        """Free the engine, after a run that is under way."""
        with self._lock:
            self._engine.close()


class Hosts:
    """The hosts of one agent, by what they run. Closed together."""

    def __init__(self) -> None:
        self._hosts: dict[Any, EngineHost] = {}

    def get(
        self, bundle: Bundle, variant: Variant, *, accelerator: str = "cpu", threads: int = 0
    ) -> EngineHost:
        """The host for this variant on this accelerator, started if there is none yet."""
        key = (bundle.identity, variant.name, accelerator, threads)
        if key not in self._hosts:
            self._hosts[key] = EngineHost(bundle, variant, accelerator=accelerator, threads=threads)
        return self._hosts[key]

    def close(self) -> None:
        """Close every host."""
        while self._hosts:
            self._hosts.popitem()[1].close()


def choose(
    bundle: Bundle,
    hosts: Hosts,
    *,
    variant: str = AUTO,
    accelerator: str = "cpu",
    threads: int = 0,
) -> tuple[Variant, EngineHost]:
    """The named variant on its engine; for "auto" the first one in the manifest that runs here.

    EngineError when none does, with the reason of each; BundleError for a name that is not there.
    """
    if variant != AUTO:
        try:
            chosen = bundle.manifest.variant(variant)
        except KeyError as error:
            raise BundleError(f"{bundle.path}: {error.args[0]}") from error
        return chosen, hosts.get(bundle, chosen, accelerator=accelerator, threads=threads)
    reasons = []
    for candidate in bundle.manifest.variants:
        try:
            return candidate, hosts.get(bundle, candidate, accelerator=accelerator, threads=threads)
        except EngineError as error:
            reasons.append(f"{candidate.name}: {error}")
    raise EngineError(f"{bundle.path}: no variant runs here: " + "; ".join(reasons))


def default_threads() -> int:
    """The cores that this process may use, at most 4."""
    return min(4, len(os.sched_getaffinity(0)))


def _fits(listed: TensorSpec | None, found: TensorSpec | None) -> bool:
    """Whether a model's tensor is the listed one; a size that it leaves free (-1) may be any."""
    if listed is None or found is None or listed.dtype != found.dtype:
        return False
    if len(listed.shape) != len(found.shape):
        return False
    return all(have in (-1, want) for have, want in zip(found.shape, listed.shape, strict=True))


def _check_fit(bundle: Bundle, variant: Variant, engine: seams.Engine) -> None:
    """The model must have exactly the tensors that the manifest says."""
    for kind in ("inputs", "outputs"):
        found = {spec.name: spec for spec in getattr(engine, kind)}
        listed: dict[str, TensorSpec] = {spec.name: spec for spec in getattr(variant, kind)}
        for name in sorted(found.keys() | listed.keys()):
            if not _fits(listed.get(name), found.get(name)):
                raise BundleError(
                    f"{bundle.path}: {variant.file} does not fit its manifest: {kind[:-1]}"
                    f" {listed.get(name, name)} is listed, the model has"
                    f" {found.get(name, 'none of that name')}"
                )
