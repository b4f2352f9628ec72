"""The command `edge`, also as `python -m edge`."""

from __future__ import annotations

import gc
import signal
import sys

# Until `main` answers Ctrl-C in its own way, it ends the process at once and without a traceback.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    """Run the command line, an agent as the child of a small parent; ends the process."""
    from edge import supervisor

    if sys.argv[1:2] == ["run"]:
        gc.disable()  # until the agent stands; there is no garbage in what is imported
    if supervisor.is_asked(sys.argv):
        code = supervisor.run(_log)
        if code is not None:
            sys.exit(code)
    from edge import cli

    cli.main()


def _log(message: str) -> None:
    """What the parent says of a restart, as the agent's own log is written."""
    import logging

    from edge.cli import logs

    logs.configure("json" if "json" in " ".join(sys.argv).replace("=", " ").split() else "text")
    logging.getLogger("edge.supervisor").error(message)


if __name__ == "__main__":
    main()
