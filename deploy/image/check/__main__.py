"""Check an image and write its SBOM: `python deploy/image/check LAYOUT PROFILE SBOM`.

Ends with a JSON line of sizes and digest; with exit code 1 and a sentence each for what is wrong.
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import rules
import sbom
from oci import Image

HERE = Path(__file__).resolve().parents[1]


def expected_wheels(profile: str) -> dict[str, str]:
    """Name and version of every locked wheel, and of the project itself."""
    wheels = {}
    for line in (HERE / "lock" / f"{profile}.txt").read_text("utf-8").splitlines():
        if "==" in line and not line.startswith("#"):
            name, _, rest = line.partition("==")
            wheels[name] = rest.split()[0]
    project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    return {**wheels, project["name"]: project["version"]}


def expected_packages() -> list[str]:
    """The names in debian.txt."""
    lines = (HERE / "debian.txt").read_text("utf-8").splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.partition("#")[0].strip()]


def main(layout: str, profile: str, sbom_file: str) -> int:
    """Run every rule; the exit code."""
    image = Image(Path(layout))
    files = image.files()
    bill = sbom.make(files, name=f"edgewright:{profile}", digest=image.digest)
    Path(sbom_file).write_text(json.dumps(bill, indent=1) + "\n", "utf-8")
    problems = [problem for rule in rules.ALL for problem in rule(files)]
    problems += sbom.differences(
        bill, wheels=expected_wheels(profile), packages=expected_packages()
    )
    if image.config["architecture"] != "arm64":
        problems.append(f"the image is for {image.config['architecture']}, not arm64")
    if image.config["config"]["Labels"]["dev.edgewright.profile"] != profile:
        problems.append("the label dev.edgewright.profile names another profile")
    for problem in problems:
        print(f"image: {problem}", file=sys.stderr)
    sizes = {"uncompressed_bytes": image.uncompressed_bytes, "gzip_bytes": image.gzip_bytes}
    print(json.dumps({"profile": profile, **sizes, "digest": image.digest}))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
