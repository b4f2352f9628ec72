"""A camera that is lost again and again, in a process of its own whose size says what that costs.

    python tests/fault/reconnects.py URL LIBRARY LOSSES

The last line is a JSON array: [losses, MB, threads, descriptors] at a quarter, at half, at the end.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

from edge.errors import FrameError
from edge.sources.camera import Camera
from edge.sources.stream import readers_left


def main() -> None:
    url, library, losses = sys.argv[1:]
    logging.disable()
    camera = Camera(Camera.Config(url=url, library=library), name="cam")  # type: ignore[arg-type]
    stream = camera._stream
    stream._backoff_bounds_s = (0.0, 0.0)
    figures = []
    for wanted in (int(losses) // 4, int(losses) // 2, int(losses)):
        while stream.losses < wanted:
            try:
                camera.read(0.2)
            except FrameError:  # the last picture of a stream that broke off
                pass
        figures.append((stream.losses, *usage()))
    camera.close()
    while readers_left():  # see edge.cli
        time.sleep(0.05)
    print(json.dumps(figures))


def usage() -> tuple[float, int, int]:
    """Megabytes, threads and descriptors of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    megabytes = round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
    threads = len(os.listdir("/proc/self/task"))  # a library's own, too
    return megabytes, threads, len(os.listdir("/proc/self/fd"))


if __name__ == "__main__":
    main()
