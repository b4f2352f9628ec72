"""What can go wrong here beyond a wrong recipe (ConfigError) and a refused bundle (BundleError)."""

from __future__ import annotations

from edge.errors import EdgeError


class ConversionError(EdgeError):
    """The recipe's own code, or a converter, failed; mend what the message names."""

    exit_code = 8


class CannotConvert(ConversionError):
    """There is no way from this model to this variant; the others may still be made."""
