"""`python -m convert models/NAME`: the same as `edge convert models/NAME`."""

from convert.cli import convert

convert(prog_name="python -m convert")
