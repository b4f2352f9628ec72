"""What reading video costs by PyAV and by OpenCV, and how each of them behaves.

    python bench/video.py [--rounds 3] [--json]

Needs Debian's GStreamer with its RTSP server for /usr/bin/python3 (see tests/rtsp_server.py) and
the extra `stream`. Both go through edge's own readers, on one thread as for a live camera, each in
a process of its own; they take turns, and figures are medians over the rounds. CPU is what the
process spent, user and system.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SYSTEM_PYTHON = "/usr/bin/python3"
LIBRARIES = ("pyav", "opencv")
FRAMES = 120
TIMEOUT_S = 3.0
MAKE = """
import sys, gi
gi.require_version("Gst", "1.0")
from gi.repository import Gst
Gst.init(None)
pipeline = Gst.parse_launch(sys.argv[1])
pipeline.set_state(Gst.State.PLAYING)
pipeline.get_bus().timed_pop_filtered(120 * Gst.SECOND, Gst.MessageType.EOS | Gst.MessageType.ERROR)
pipeline.set_state(Gst.State.NULL)
"""
SOURCE = (
    f"videotestsrc num-buffers={FRAMES} pattern=zone-plate kx2=12 ky2=12 kt=3"
    " ! video/x-raw,width=1920,height=1080,framerate=25/1,format=I420"
)
FILES = {
    "h264": "x264enc speed-preset=veryfast bitrate=4000 key-int-max=50 ! mp4mux",
    "mjpeg": "jpegenc quality=80 ! avimux",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(*options.one)))
        return
    with tempfile.TemporaryDirectory() as name:
        rows = measure(Path(name), options.rounds)
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{'':<34}" + "".join(f"{library:>12}" for library in LIBRARIES))
    for what in rows[LIBRARIES[0]]:
        print(f"{what:<34}" + "".join(f"{rows[library][what]:>12}" for library in LIBRARIES))


def measure(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    files = {codec: make(folder / f"{codec}.video", codec) for codec in FILES}
    found: dict[str, dict[str, list[float]]] = {library: {} for library in LIBRARIES}

    def note(library: str, figures: dict[str, float]) -> None:
        for what, value in figures.items():
            found[library].setdefault(what, []).append(value)

    for _ in range(rounds):
        for codec, file in files.items():
            for library in LIBRARIES:
                figures = run(library, "decode", str(file))
                note(library, {f"{codec} 1080p, CPU ms a frame": figures["cpu_ms"]})
                note(library, {f"{codec} 1080p, memory MB": figures["memory_mb"]})
        for library in LIBRARIES:
            with rtsp(folder) as (url, _):
                note(library, run(library, "connect", url))
            with rtsp(folder) as (url, server):
                note(library, run(library, "hang", f"{url} {server.pid}"))
                server.send_signal(signal.SIGCONT)
            note(library, run(library, "times", str(files["h264"])))
    return {
        library: {what: round(statistics.median(values), 2) for what, values in figures.items()}
        for library, figures in found.items()
    }


def make(file: Path, codec: str) -> Path:
    pipeline = f"{SOURCE} ! {FILES[codec]} ! filesink location={file}"
    subprocess.run([SYSTEM_PYTHON, "-c", MAKE, pipeline], check=True)
    if not file.stat().st_size:
        sys.exit("bench/video.py needs Debian's GStreamer")
    return file


@contextmanager
def rtsp(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A camera of 720p at 25 frames a second."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [SYSTEM_PYTHON, ROOT / "tests/rtsp_server.py", "--port", str(port), "--size", "1280x720",
         "--fps", "25"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert server.stdout is not None and server.stdout.readline()
        yield f"rtsp://127.0.0.1:{port}/cam", server
    finally:
        server.kill()
        server.wait(10)


def run(library: str, what: str, target: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--one", library, what, target],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


# ---- in a process of its own


def one(library: str, what: str, target: str) -> dict[str, float]:
    return {"decode": decode, "connect": connect, "hang": hang, "times": times}[what](
        library, target
    )


def opened(library: str, url: str, *, live: bool = True) -> Any:
    from edge.sources.readers import Opening, open_reader

    return open_reader(library, Opening(url=url, live=live, read_timeout_s=TIMEOUT_S))  # type: ignore[arg-type]


def decode(library: str, target: str) -> dict[str, float]:
    memory_mb = memory()
    reader = opened(library, target)
    reader.read(1.0)
    began = time.process_time()
    count = 0
    from edge.sources.readers import Ended

    try:
        while reader.read(1.0) is not None:
            count += 1
    except Ended:
        pass
    cpu_ms = (time.process_time() - began) * 1000 / count
    return {"cpu_ms": cpu_ms, "memory_mb": memory() - memory_mb}


def connect(library: str, target: str) -> dict[str, float]:
    opened(library, target).close()  # the library is loaded, and the camera has started
    began = time.monotonic()
    reader = opened(library, target)
    reader.read(1.0)
    first_s = time.monotonic() - began
    late = 0
    for _ in range(75):
        before = time.monotonic()
        reader.read(1.0)
        late += time.monotonic() - before < 0.005
    return {
        "rtsp, seconds to the first picture": first_s,
        "rtsp, pictures that were old then": late,
    }


def hang(library: str, target: str) -> dict[str, float]:
    from edge.errors import FrameError
    from edge.sources.stream import Lost

    url, pid = target.split()
    reader = opened(library, url)
    for _ in range(60):
        reader.read(1.0)
    os.kill(int(pid), signal.SIGSTOP)
    began = time.monotonic()
    try:
        while True:
            try:
                reader.read(1.0)
            except FrameError:
                pass
    except Lost:
        return {f"rtsp, s until a hang of {TIMEOUT_S:g} s returns": time.monotonic() - began}


def times(library: str, target: str) -> dict[str, float]:
    from edge.sources.readers import Ended

    reader = opened(library, target, live=False)
    worst_ms = 0.0
    first_s = None
    number = 0
    try:
        while (picture := reader.read(1.0)) is not None:
            at_s = picture.at_s or 0.0
            first_s = at_s if first_s is None else first_s
            worst_ms = max(worst_ms, abs(at_s - first_s - number / 25) * 1000)
            number += 1
    except Ended:
        pass
    assert number == FRAMES, number
    return {"file, worst error of a time, ms": worst_ms}


def memory() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
