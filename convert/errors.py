"""What can go wrong here beyond a wrong recipe (ConfigError) and a refused bundle (BundleError)."""

from __future__ import annotations

from edge.errors import EdgeError

_LONGEST_REASON = 300


class ConversionError(EdgeError):
    """The recipe's own code, or a converter, failed; mend what the message names."""

    exit_code = 8


class CannotConvert(ConversionError):
    """There is no way from this model to this variant; the others may still be made."""


def reason(error: BaseException) -> str:
    """One line about a foreign exception: what it was first caused by, shortened.

    Converters wrap their errors in pages of advice; the first cause is what a user can act on.
    """
    while error.__cause__ is not None and str(error.__cause__).strip():
        error = error.__cause__
    text = " ".join(str(error).split())
    if len(text) > _LONGEST_REASON:
        text = text[:_LONGEST_REASON] + " …"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
