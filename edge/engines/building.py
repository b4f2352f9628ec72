"""An engine by name, ready to run one variant of a bundle, and fitting its manifest."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

from edge import seams
from edge.accelerators import CPU, EngineRequest
from edge.bundle import Bundle
from edge.engines.optimised import Entry, Optimised
from edge.errors import BundleError, EngineError
from edge.manifest import Variant
from edge.types import TensorSpec


def build(
    bundle: Bundle,
    variant: Variant,
    name: str,
    request: EngineRequest,
    *,
    kept: Entry | None = None,
) -> seams.Engine:
    """EngineError when it cannot be had here; BundleError when the model is not as listed.

    The model is taken from `kept` where it was optimised before, else kept there (see `keepable`).
    """
    make: Callable[..., seams.Engine] = functools.partial(
        seams.find("engines", name),
        accelerator=request.accelerator,
        options=request.options,
        precision=variant.precision,
        settings=request.settings,
    )
    engine = None
    if kept is not None:
        engine = _known(make, kept) or _kept(make, kept, bundle.read(variant.file))
    engine = engine or make(bundle.read(variant.file))
    try:
        _check_fit(bundle, variant, engine)
    except BundleError:
        engine.close()
        raise
    return engine


def keepable(
    optimised: Optimised, bundle: Bundle, variant: Variant, name: str, request: EngineRequest
) -> Entry | None:
    """Where this model is kept as its runtime optimised it; None where that means nothing."""
    if (name, request.accelerator) != ("onnx", CPU):
        return None
    version = importlib.import_module(seams.find("engines", name).__module__).version()
    digest = bundle.manifest.files[variant.file].sha256
    return optimised.entry(digest, version, request.settings.layout)


def _known(make: Callable[..., seams.Engine], kept: Entry) -> seams.Engine | None:
    """From what is kept; None when nothing is, or nothing that the runtime takes."""
    model = kept.read()
    if model is None:
        return None
    try:
        return make(model, optimised=True)
    except EngineError:
        kept.drop()
        return None


def _kept(make: Callable[..., seams.Engine], kept: Entry, model: bytes) -> seams.Engine | None:
    """From the model itself, which is kept as it was optimised; None when that cannot be."""
    place = kept.place(len(model))
    if place is None:
        return None
    try:
        engine = make(model, keep=place)
    except EngineError:  # of the model, which is tried again without this, or of the disk
        place.unlink(missing_ok=True)
        return None
    kept.keep(place)
    return engine


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


def _fits(listed: TensorSpec | None, found: TensorSpec | None) -> bool:
    """Whether a model's tensor is the listed one; a size that it leaves free (-1) may be any."""
    if listed is None or found is None or listed.dtype != found.dtype:
        return False
    if len(listed.shape) != len(found.shape):
        return False
    return all(have in (-1, want) for have, want in zip(found.shape, listed.shape, strict=True))
