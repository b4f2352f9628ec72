"""One pass over a TOML document that collects all that is wrong with it, with file and key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge.errors import ConfigError
from edge.secret import Secret

NAME_PATTERN = r"[A-Za-z0-9_.-]{1,64}"
_STANDARD_STREAM = "-"


def read_toml(file: Path, *, missing: str) -> dict[str, Any]:
    """The document of a file. ConfigError; `missing` says what to do when there is no such file."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; {missing}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error


def at(key: str, name: str) -> str:
    """The dotted key of `name` inside of the table `key`."""
    return f"{key}.{name}" if key else name


class TomlReader:
    """Takes tables apart and keeps `problems`; what is wrong is given back as None."""

    def __init__(self, file: Path) -> None:
        self.problems: list[str] = []
        self.file = file

    def problem(self, key: str, text: str) -> None:
        """Note a mistake."""
        self.problems.append(f"{self.file}: {key}: {text}" if key else f"{self.file}: {text}")

    def value(self, table: Mapping[str, Any], name: str, kind: Any, *, key: str = "") -> Any:
        """One value of a type that msgspec knows, a Secret, or a Path (relative to the file)."""
        if name not in table:
            self.problem(at(key, name), "missing")
            return None
        try:
            value = msgspec.convert(table[name], kind, dec_hook=_decode_hook)
        except msgspec.ValidationError as error:
            self.problem(at(key, name), str(error))
            return None
        if isinstance(value, Path) and str(value) != _STANDARD_STREAM:
            return self.absolute(value)
        return value

    def struct(
        self,
        struct: type[Any],
        table: Mapping[str, Any],
        key: str,
        *,
        given: Mapping[str, Any] | None = None,
    ) -> Any:
        """A struct from a table, field by field, so that each mistake is found.

        `given` fields are not looked for in the table.
        """
        values: dict[str, Any] = dict(given or {})
        before = len(self.problems)
        fields = [field for field in msgspec.structs.fields(struct) if field.name not in values]
        self.refuse_unknown(table, [field.encode_name for field in fields], key)
        for field in fields:
            if field.encode_name in table or field.required:
                values[field.name] = self.value(table, field.encode_name, field.type, key=key)
        if len(self.problems) > before:
            return None
        try:
            return struct(**values)
        except ValueError as error:
            self.problem(key, str(error))
            return None

    def table(self, table: Mapping[str, Any], name: str, key: str = "") -> dict[str, Any]:
        """A table inside of a table; empty when it is not there."""
        found = table.get(name, {})
        if isinstance(found, dict):
            return found
        self.problem(at(key, name), "must be a table")
        return {}

    def array(
        self, table: Mapping[str, Any], name: str, key: str = "", *, least: int = 0
    ) -> list[tuple[dict[str, Any], str]]:
        """The tables of [[name]], each with its own key."""
        where = at(key, name)
        found = table.get(name, [])
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            self.problem(where, f"must be an array of tables, written [[{where}]]")
            return []
        if len(found) < least:
            self.problem(where, f"at least one [[{where}]] is needed")
        return [(item, f"{where}[{index}]") for index, item in enumerate(found)]

    def refuse_unknown(self, table: Mapping[str, Any], known: Sequence[str], key: str) -> None:
        """Every key that is not known is a mistake."""
        for name in table:
            if name not in known:
                import difflib

                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
                self.problem(at(key, name), f"unknown key; {hint}")

    def refuse_twins(self, kind: str, names: Sequence[str]) -> None:
        """No two may be called the same."""
        for name in sorted({name for name in names if names.count(name) > 1}):
            self.problem(kind, f"two are called {name!r}; names must differ")

    def check_name(self, name: Any, key: str) -> None:
        """Names stand in topics and file names."""
        if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
            self.problem(key, "must be 1 to 64 letters, digits, '_', '.' or '-'")

    def absolute(self, path: str | Path) -> Path:
        """A path of the document, which is relative to the file."""
        return self.file.absolute().parent / Path(path).expanduser()


def _decode_hook(kind: type[Any], value: Any) -> Any:
    if kind in (Secret, Path) and isinstance(value, str):
        return kind(value)
    raise msgspec.ValidationError(f"Expected `str`, got `{type(value).__name__}`")
