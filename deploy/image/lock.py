"""Write the hash-locked wheels of every profile: `make image-lock`.

pip resolves for aarch64, CPython 3.11 and Debian 12's glibc, without installing anything; what
trim.txt leaves out is left out here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
PROFILES = {
    "full": ("onnx", "tflite", "camera", "mqtt"),
    "onnx": ("onnx", "camera", "mqtt"),
    "tflite": ("tflite", "camera", "mqtt"),
    "sensor": ("tflite", "mqtt"),
}
CONSTRAINTS = [
    "opencv-python-headless<5",  # 5.0 is 16 MB larger, and nothing of it is used
]
GLIBC_MINOR = 36  # Debian 12
OLDEST_MINOR = 17


def platforms() -> list[str]:
    """Every manylinux tag that runs on the image's glibc, newest first."""
    minors = range(GLIBC_MINOR, OLDEST_MINOR - 1, -1)
    return [*(f"manylinux_2_{minor}_aarch64" for minor in minors), "manylinux2014_aarch64"]


def resolve(requirements: list[str], *, device: bool) -> list[str]:
    """Lines `name==version --hash=sha256:…`, sorted; for the device or for the building stage."""
    options = ["--python-version=3.11", "--implementation=cp", "--only-binary=:all:"]
    if device:
        options += [f"--platform={name}" for name in platforms()]
    else:
        options += ["--platform=any"]
    with tempfile.TemporaryDirectory() as folder:
        report, constraints = Path(folder, "report.json"), Path(folder, "constraints.txt")
        constraints.write_text("\n".join(CONSTRAINTS), "utf-8")
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
             f"--target={folder}/nothing", f"--report={report}", f"--constraint={constraints}",
             *options, *requirements],
            check=True,
        )  # fmt: skip
        installs = json.loads(report.read_text("utf-8"))["install"]
    lines = []
    for item in installs:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        wheel = item["download_info"]["url"].rpartition("/")[2]
        lines.append((name, f"# {wheel}\n{name}=={version} --hash=sha256:{digest}"))
    return [line for _, line in sorted(lines, key=lambda pair: pair[0].lower())]


def left_out() -> set[str]:
    """Wheels that trim.txt leaves out."""
    words = [line.split() for line in (HERE / "trim.txt").read_text("utf-8").splitlines()]
    return {line[1] for line in words if line and line[0] == "wheel"}


def main() -> None:
    """Write deploy/image/lock/*.txt."""
    project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text("utf-8"))
    base = project["project"]["dependencies"]
    extras = project["project"]["optional-dependencies"]
    out = left_out()
    folder = HERE / "lock"
    folder.mkdir(exist_ok=True)
    for profile, names in PROFILES.items():
        wanted = base + [item for name in names for item in extras[name]]
        lines = [line for line in resolve(wanted, device=True) if _name(line) not in out]
        header = f"# Wheels of {profile}: {', '.join(names)}. Written by `make image-lock`."
        (folder / f"{profile}.txt").write_text("\n".join([header, *lines, ""]), "utf-8")
    lines = resolve(project["build-system"]["requires"], device=False)
    header = "# What builds our own wheel. Written by `make image-lock`."
    (folder / "build.txt").write_text("\n".join([header, *lines, ""]), "utf-8")


def _name(line: str) -> str:
    return line.splitlines()[-1].partition("==")[0]


if __name__ == "__main__":
    main()
