"""Make an OCI layout the same for the same files: `python normal.py LAYOUT HEALTHCHECK`.

buildah writes the random IDs of intermediate images into the history, and leaves the HEALTHCHECK
out of OCI images; BuildKit writes it there, and Docker reads it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any


def normalise(layout: Path, healthcheck: dict[str, Any] | None) -> None:
    """Rewrite the configuration, and by it the manifest and the index."""
    index = json.loads((layout / "index.json").read_text("utf-8"))
    entry = index["manifests"][0]
    manifest = _take(layout, entry)
    config = _take(layout, manifest["config"])
    for step in config["history"]:
        step.pop("comment", None)
    if healthcheck:
        config["config"]["Healthcheck"] = healthcheck
    manifest["config"].update(_put(layout, config))
    entry.update(_put(layout, manifest))
    (layout / "index.json").write_text(json.dumps(index), "utf-8")


def _take(layout: Path, descriptor: dict[str, Any]) -> dict[str, Any]:
    blob = _blob(layout, descriptor["digest"])
    document: dict[str, Any] = json.loads(blob.read_text("utf-8"))
    blob.unlink()
    return document


def _put(layout: Path, document: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    _blob(layout, digest).write_bytes(data)
    return {"digest": digest, "size": len(data)}


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


if __name__ == "__main__":
    normalise(Path(sys.argv[1]), json.loads(sys.argv[2]))
