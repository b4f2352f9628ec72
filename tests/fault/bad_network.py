"""A network namespace behind a link that loses, delays and changes the order of packets.

The link is a pair of TUN devices with a thread between them, since kernels without netem exist.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import threading
import time
from types import TracebackType
from typing import Self

from needs import missing, need_program

_NUMBERS = itertools.count(os.getpid() % 200)
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x0001 | 0x1000


class BadNetwork:
    """`here` and `there` are the addresses of its two ends; `there` lies in the namespace `name`.

    Of the packets a share `loss` is lost; the others take `delay_s`, evenly between two bounds, so
    that those behind may come before.
    """

    def __init__(self, *, seed: int = 1) -> None:
        self.loss = 0.0
        self.delay_s = (0.0, 0.0)
        number = next(_NUMBERS)
        self.name = f"edge-bad-{number}"
        self.here, self.there = f"10.214.{number % 250}.1", f"10.214.{number % 250}.2"
        self._devices = [f"eb{number}n", f"eb{number}f"]
        self._ip = need_program("ip")
        self._rng = random.Random(seed)
        self._ends: list[int] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def spoil(self, *, loss: float = 0.0, delay_s: tuple[float, float] = (0.0, 0.0)) -> None:
        """From now on; without arguments it is well again."""
        self.loss, self.delay_s = loss, delay_s

    def __enter__(self) -> Self:
        try:
            self._ends = [_tun(device) for device in self._devices]
            self._do("netns", "add", self.name)
        except (OSError, subprocess.CalledProcessError) as error:
            missing(f"the right to make a TUN device and a network namespace ({error})")
        near, far = self._devices
        self._do("link", "set", far, "netns", self.name)
        self._do("addr", "add", self.here, "peer", self.there, "dev", near)
        self._do("-n", self.name, "addr", "add", self.there, "peer", self.here, "dev", far)
        self._do("link", "set", near, "up")
        for device in ("lo", far):
            self._do("-n", self.name, "link", "set", device, "up")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join(5)
        for end in self._ends:
            os.close(end)
        subprocess.run([self._ip, "netns", "del", self.name], check=False, capture_output=True)

    def _carry(self) -> None:
        due: list[tuple[float, int, int, bytes]] = []
        order = itertools.count()
        while not self._done.is_set():
            now_s = time.monotonic()
            while due and due[0][0] <= now_s:
                _, _, target, packet = heapq.heappop(due)
                try:
                    os.write(target, packet)
                except OSError:  # its far end is down
                    pass
            wait_s = min(0.1, due[0][0] - now_s) if due else 0.1
            for end in select.select(self._ends, [], [], max(0.0, wait_s))[0]:
                packet = os.read(end, 1 << 16)
                if self._rng.random() < self.loss:
                    continue
                arrives_s = time.monotonic() + self._rng.uniform(*self.delay_s)
                other = self._ends[1 - self._ends.index(end)]
                heapq.heappush(due, (arrives_s, next(order), other, packet))

    def _do(self, *what: str) -> None:
        subprocess.run([self._ip, *what], check=True, capture_output=True, text=True)


def _tun(device: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN_NO_PI))
    return end
