"""The command `edge`, also as `python -m edge`."""

from __future__ import annotations

import signal

# Until `main` answers Ctrl-C in its own way, it ends the process at once and without a traceback.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from edge.cli import main

if __name__ == "__main__":
    main()
