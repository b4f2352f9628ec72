"""`python -m edge.fleet`: the same as `edge fleet`."""

from edge.cli import main
from edge.fleet.cli import fleet

main(fleet)
