"""Errors, named for what the caller does next.

Every message says what was wrong, where (file and key, or address) and what to do. A foreign
exception is wrapped once, in the adapter that met it. `exit_code` is what the `edge` command
returns when the error reaches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class EdgeError(Exception):
    """Base of all errors that Edgewright raises on purpose."""

    exit_code: ClassVar[int] = 1


class ConfigError(EdgeError):
    """Mend the configuration and start again. Carries every mistake that was found."""

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class BundleError(EdgeError):
    """Reject this bundle and keep the current one."""

    exit_code = 3


class SourceError(EdgeError):
    """The source cannot be read now; retry."""

    exit_code = 4


class EngineError(EdgeError):
    """The engine cannot run this model here; fall back or stop, as the policy says."""

    exit_code = 5


class SinkError(EdgeError):
    """The sink cannot be reached now; what was to be sent stays in the outbox."""

    exit_code = 6


class OutboxError(EdgeError):
    """The store on disk cannot be used; free space, mend permissions, or name another place."""

    exit_code = 7


class FrameError(EdgeError):
    """This one frame cannot be used; it is counted and the next one is taken."""
