"""`python -m edge`, which is `edge`."""

from edge.cli import main

main()
