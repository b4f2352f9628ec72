"""The soak of the sources, for less than a minute: every frame and every event is accounted for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cameras import need_gstreamer
from needs import need_module, need_program

from .stage import ENV


@pytest.mark.timeout(300)
def test_every_frame_and_event_under_faults_is_accounted_for() -> None:
    need_gstreamer()
    need_program("mosquitto")
    for module in ("av", "serial", "pymodbus", "paho.mqtt"):
        need_module(module)
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("soak_sources.py"),
         "--minutes", "0.7", "--seed", "3", "--table"],
        capture_output=True, text=True, timeout=280, check=False, env=ENV,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    print(done.stdout)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["faults"] >= 10
    assert figures["unaccounted"] == 0, figures["pipelines"]
    assert all(one["frames"] > 10 for one in figures["pipelines"].values()), figures["pipelines"]
    assert figures["stored"] == figures["events"] > 100 and figures["declared"] == 0
    for what in ("threads", "descriptors"):
        first, last = figures[what]
        assert last <= first + 6, figures
