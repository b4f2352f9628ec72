"""An engine by name, ready to run one variant of a bundle, and fitting its manifest."""

from __future__ import annotations

from edge import seams
from edge.accelerators import EngineRequest
from edge.bundle import Bundle
from edge.errors import BundleError
from edge.manifest import Variant
from edge.types import TensorSpec


def build(bundle: Bundle, variant: Variant, name: str, request: EngineRequest) -> seams.Engine:
    """EngineError when it cannot be had here; BundleError when the model is not as listed."""
    engine: seams.Engine = seams.find("engines", name)(
        bundle.read(variant.file),
        accelerator=request.accelerator,
        options=request.options,
        precision=variant.precision,
        settings=request.settings,
    )
    try:
        _check_fit(bundle, variant, engine)
    except BundleError:
        engine.close()
        raise
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
