"""Raw tensors -> a prediction in source coordinates; one file a task. Pure.

Decoders are named in the manifest and looked up in `edge.seams.DECODERS`.
"""

from __future__ import annotations

import msgspec

from edge import seams
from edge.errors import BundleError, ConfigError
from edge.manifest import Manifest, Variant


def build(manifest: Manifest, variant: Variant, *, min_score: float | None = None) -> seams.Decode:
    """The decoder that the manifest names, for one variant. BundleError when it does not fit.

    `min_score` takes the place of the manifest's score threshold.
    """
    decoder = manifest.decoder
    try:
        adapter = seams.find("decoders", decoder.name)
    except ConfigError as error:
        raise BundleError(f"{manifest.name}: {error}; upgrade edgewright") from error
    try:
        params = msgspec.convert(decoder.params, adapter.Params)
    except msgspec.ValidationError as error:
        raise BundleError(f"{manifest.name}: decoder {decoder.name}: {error}") from error
    score = manifest.thresholds.score if min_score is None else min_score
    decode: seams.Decode = adapter(params, variant, labels=manifest.labels, min_score=score)
    return decode
