"""Whether a conversion was done before and nothing has changed since: then it is not done again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from convert.cache import Cache
from convert.inputs import open_data
from convert.recipe import Recipe
from convert.report import Measured, Options, Result, VariantReport
from edge.bundle import Bundle
from edge.errors import BundleError

_STEP = "finished"


class _Finished(msgspec.Struct, frozen=True, kw_only=True):
    """A Result as it is kept; `identity` is that of the bundle, "" where none was written."""

    identity: str
    reference: Measured
    variants: list[VariantReport]
    samples: int
    data: list[dict[str, Any]]
    notes: list[str]


def known(recipe: Recipe, destination: Path, options: Options, cache: Cache) -> Result | None:
    """What came of it the last time, if the bundle that was written then still lies there."""
    found = cache.find(_STEP, _parts(recipe, destination, options), _Finished)
    if found is None:
        return None
    try:
        bundle = Bundle.open(destination) if found.identity else None
    except BundleError:
        return None
    if bundle is not None and bundle.identity != found.identity:
        return None
    return Result(
        title=f"{recipe.name} {recipe.version}",
        bundle=bundle,
        reference=found.reference,
        variants=found.variants,
        samples=found.samples,
        data=found.data,
        notes=found.notes,
        unchanged=True,
    )


def remember(
    result: Result, recipe: Recipe, destination: Path, options: Options, cache: Cache
) -> None:
    """Keep what came of it."""
    finished = _Finished(
        identity=result.bundle.identity if result.bundle else "",
        reference=result.reference,
        variants=result.variants,
        samples=result.samples,
        data=result.data,
        notes=result.notes,
    )
    cache.keep(_STEP, _parts(recipe, destination, options), finished)
    cache.prune()


def _parts(recipe: Recipe, destination: Path, options: Options) -> Any:
    return [
        msgspec.to_builtins(recipe, enc_hook=str),
        recipe.digests(),
        {use: samples.digest() for use, samples in open_data(recipe).items()},
        str(destination.absolute()),
        msgspec.to_builtins(options),
    ]
