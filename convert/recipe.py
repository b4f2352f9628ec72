"""recipe.toml -> frozen structs; RECIPE.md is the written format.

All mistakes are reported together, with file and key.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from edge import seams
from edge.config import decode_adapter
from edge.errors import ConfigError
from edge.manifest import Decoder, ImagePreprocess, Preprocess, Thresholds, WindowPreprocess
from edge.preprocess import ImagePreprocessor, Preprocessor, WindowPreprocessor
from edge.types import Layout, TensorSpec

RECIPE = "recipe.toml"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")
_DECODERS = {"detect": "ltrb_grid", "classify": "softmax"}


class ModelSection(msgspec.Struct, frozen=True, kw_only=True):
    """[model]: the recipe's code and its trained weights, files beside recipe.toml."""

    code: str = "model.py"
    weights: str = "weights.safetensors"


class InputSection(msgspec.Struct, frozen=True, kw_only=True):
    """[[input]]: what the trained model takes, float32."""

    name: str
    shape: tuple[int, ...]
    layout: Layout

    @property
    def spec(self) -> TensorSpec:
        """The same as a manifest writes it."""
        return TensorSpec(name=self.name, shape=self.shape, layout=self.layout)


class OutputSection(msgspec.Struct, frozen=True, kw_only=True):
    """[[output]]: the name of one output, in the order in which the model gives them."""

    name: str


class DataSource(msgspec.Struct, frozen=True, kw_only=True):
    """[[data.source]]: what the model was trained or judged on."""

    name: str
    licence: str
    note: str = ""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a variant must keep to be shipped.

    `max_error` and `p99_error` bound the parity of every output, relative to its range.
    `agreement` is the smallest share of the original's answers that the variant gives too (and
    1 - `agreement` the largest share of extra boxes), `mean_iou` the smallest mean overlap of those
    boxes, `accuracy_drop` the largest loss on any measured metric.
    """

    max_error: float
    p99_error: float
    agreement: float
    mean_iou: float
    accuracy_drop: float


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """[gate]: bounds by precision, and the metrics of the recipe of which less is better."""

    fp32: Bounds = Bounds(
        max_error=1e-3, p99_error=1e-3, agreement=0.99, mean_iou=0.95, accuracy_drop=0.005
    )
    int8: Bounds = Bounds(
        max_error=float("inf"), p99_error=0.1, agreement=0.95, mean_iou=0.85, accuracy_drop=0.02
    )
    lower_is_better: tuple[str, ...] = ()

    def bounds(self, precision: str) -> Bounds:
        """The bounds for one precision."""
        return cast(Bounds, getattr(self, precision))


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A whole recipe.toml; `folder` is where it lies."""

    folder: Path
    name: str
    version: str
    summary: str
    task: Literal["detect", "classify"]
    labels: tuple[str, ...]
    model: ModelSection
    input: InputSection
    outputs: tuple[str, ...]
    preprocess: Preprocess
    decoder: Decoder
    thresholds: Thresholds
    rules: tuple[dict[str, Any], ...]
    data: tuple[DataSource, ...]
    licences: dict[str, str]
    gate: Gate

    def preprocessor(self, spec: TensorSpec) -> Preprocessor:
        """Edge's own preprocessing into a tensor of this spec."""
        if isinstance(self.preprocess, WindowPreprocess):
            return WindowPreprocessor(self.preprocess, spec)
        return ImagePreprocessor(self.preprocess, spec)

    def digests(self) -> dict[str, str]:
        """SHA-256 of what the model was made from: recipe.toml, the weights and all code."""
        names = {RECIPE, self.model.weights, self.model.code}
        names |= {path.name for path in self.folder.glob("*.py")}
        return {
            name: hashlib.sha256((self.folder / name).read_bytes()).hexdigest()
            for name in sorted(names)
        }


def load(folder: Path) -> Recipe:
    """Read and check the recipe.toml of a model folder. ConfigError with every mistake in it."""
    file = folder / RECIPE
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; name a folder that holds a {RECIPE}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error
    reader = _Reader(file)
    recipe = reader.recipe(document)
    if reader.problems or recipe is None:
        raise ConfigError(reader.problems)
    return recipe


class _Reader:
    """One pass over a document, collecting what is wrong with it."""

    _KEYS = (
        *("name", "version", "summary", "task", "labels", "model", "input", "output"),
        *("preprocess", "decoder", "thresholds", "rule", "data", "licence", "gate"),
    )

    def __init__(self, file: Path) -> None:
        self.problems: list[str] = []
        self._file = file

    def recipe(self, document: dict[str, Any]) -> Recipe | None:
        self._refuse_unknown(document, self._KEYS, "")
        task: Any = self._value(document, "task", Literal["detect", "classify"])
        outputs = self._sections(OutputSection, document, "output", at_least=1)
        values: dict[str, Any] = {
            "name": self._name(document),
            "version": self._value(document, "version", str),
            "summary": self._value(document, "summary", str, default=""),
            "task": task,
            "labels": self._labels(document),
            "model": self._model(self._table(document, "model")),
            "input": self._input(document),
            "outputs": tuple(output.name for output in outputs),
            "preprocess": self._preprocess(self._table(document, "preprocess")),
            "decoder": self._decoder(self._table(document, "decoder"), task, outputs),
            "thresholds": self._struct(
                Thresholds, self._table(document, "thresholds"), "thresholds"
            ),
            "rules": self._rules(document),
            "data": self._data(self._table(document, "data")),
            "licences": self._licences(self._table(document, "licence")),
            "gate": self._gate(self._table(document, "gate")),
        }
        if self.problems:
            return None
        self._check_fit(values)
        return Recipe(folder=self._file.parent, **values)

    def _name(self, document: Mapping[str, Any]) -> Any:
        name = self._value(document, "name", str)
        if isinstance(name, str) and not _NAME.match(name):
            self._problem("name", "must be 1 to 64 letters, digits, '_', '.' or '-'")
        return name

    def _labels(self, document: Mapping[str, Any]) -> Any:
        labels = self._value(document, "labels", tuple[str, ...])
        if labels is not None and (not labels or len(set(labels)) != len(labels)):
            self._problem("labels", "must be one or more, no two the same")
        return labels

    def _model(self, table: dict[str, Any]) -> Any:
        section = self._struct(ModelSection, table, "model")
        hints = {"code": "write it", "weights": "train the model first, or name the right file"}
        for key, hint in hints.items():
            name = getattr(section, key, None)
            if name is not None and not (self._file.parent / name).is_file():
                self._problem(f"model.{key}", f"{name}: no such file; {hint}")
        if section is not None and not section.weights.endswith(".safetensors"):
            self._problem("model.weights", "must be a .safetensors file; nothing is unpickled")
        return section

    def _input(self, document: Mapping[str, Any]) -> Any:
        inputs = self._sections(InputSection, document, "input", at_least=1)
        if len(inputs) > 1:
            self._problem("input", "only one [[input]] can be converted so far")
        return inputs[0] if inputs else None

    def _preprocess(self, table: dict[str, Any]) -> Any:
        kinds = {"image": ImagePreprocess, "window": WindowPreprocess}
        rest = dict(table)
        kind = rest.pop("kind", None)
        if kind not in kinds:
            self._problem("preprocess.kind", f"must be one of {', '.join(kinds)}, not {kind!r}")
            return None
        return self._struct(kinds[kind], rest, "preprocess")

    def _decoder(self, table: dict[str, Any], task: Any, outputs: Sequence[OutputSection]) -> Any:
        params = dict(table)
        name = params.pop("name", _DECODERS.get(task))
        try:
            decoder = seams.find("decoders", str(name))
        except ConfigError as error:
            self._problem("decoder.name", str(error))
            return None
        decoded = self._struct(decoder.Params, params, "decoder")
        names = [output.name for output in outputs]
        for key in ("boxes", "scores"):
            wanted = getattr(decoded, key, None)
            if wanted is not None and names and wanted not in names:
                self._problem(f"decoder.{key}", f"no [[output]] is called {wanted!r}")
        return Decoder(name=str(name), params=params)

    def _rules(self, document: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        rules = self._array(document, "rule")
        for rule, key in rules:
            try:
                decode_adapter("rules", rule, where=f"{self._file}: {key}")
            except ConfigError as error:
                self.problems += error.problems
        return tuple(rule for rule, _ in rules)

    def _data(self, table: dict[str, Any]) -> tuple[DataSource, ...]:
        self._refuse_unknown(table, ["source"], "data")
        found = [
            self._struct(DataSource, source, key)
            for source, key in self._array(table, "source", "data")
        ]
        return tuple(source for source in found if source is not None)

    def _licences(self, table: dict[str, Any]) -> dict[str, str]:
        for key, value in table.items():
            if not isinstance(value, str):
                self._problem(f"licence.{key}", "must be a text")
        if "weights" not in table:
            self._problem("licence.weights", "missing")
        return table

    def _gate(self, table: dict[str, Any]) -> Gate:
        defaults = Gate()
        self._refuse_unknown(table, defaults.__struct_fields__, "gate")
        values: dict[str, Any] = {}
        for precision in ("fp32", "int8"):
            default = msgspec.structs.asdict(defaults.bounds(precision))
            given = self._table(table, precision, "gate")
            values[precision] = self._struct(Bounds, {**default, **given}, f"gate.{precision}")
        if "lower_is_better" in table:
            values["lower_is_better"] = self._value(
                table, "lower_is_better", tuple[str, ...], key="gate"
            )
        return Gate(**values)

    def _check_fit(self, values: Mapping[str, Any]) -> None:
        """That the parts fit one another, by what edge itself says of them."""
        build: Callable[..., Any] = (
            WindowPreprocessor
            if isinstance(values["preprocess"], WindowPreprocess)
            else ImagePreprocessor
        )
        if getattr(values["preprocess"], "folded", False):
            self._problem("preprocess.folded", "cannot be converted so far; leave it out")
            return
        try:
            build(values["preprocess"], values["input"].spec)
        except Exception as error:
            self._problem("input[0]", f"does not fit [preprocess]: {error}")

    def _struct(self, struct: type[Any], table: Mapping[str, Any], key: str) -> Any:
        """A struct from a table, field by field, so that each mistake is found."""
        before = len(self.problems)
        fields = msgspec.structs.fields(struct)
        self._refuse_unknown(table, [field.name for field in fields], key)
        values: dict[str, Any] = {}
        for field in fields:
            if field.name in table or field.required:
                values[field.name] = self._value(table, field.name, field.type, key=key)
        if len(self.problems) > before:
            return None
        try:
            return struct(**values)
        except ValueError as error:
            self._problem(key, str(error))
            return None

    def _sections(
        self, struct: type[Any], document: Mapping[str, Any], name: str, *, at_least: int
    ) -> list[Any]:
        tables = self._array(document, name)
        if len(tables) < at_least:
            self._problem(name, f"at least one [[{name}]] is needed")
        found = [self._struct(struct, table, key) for table, key in tables]
        sections = [section for section in found if section is not None]
        names = [section.name for section in sections]
        for twin in sorted({name for name in names if names.count(name) > 1}):
            self._problem(name, f"two are called {twin!r}; names must differ")
        return sections

    def _value(
        self, table: Mapping[str, Any], name: str, kind: Any, *, key: str = "", default: Any = None
    ) -> Any:
        where = f"{key}.{name}".lstrip(".")
        if name not in table:
            if default is None:
                self._problem(where, "missing")
            return default
        try:
            return msgspec.convert(table[name], kind)
        except msgspec.ValidationError as error:
            self._problem(where, str(error))
            return None

    def _table(self, table: Mapping[str, Any], name: str, key: str = "") -> dict[str, Any]:
        found = table.get(name, {})
        if isinstance(found, dict):
            return found
        self._problem(f"{key}.{name}".lstrip("."), "must be a table")
        return {}

    def _array(
        self, table: Mapping[str, Any], name: str, key: str = ""
    ) -> list[tuple[dict[str, Any], str]]:
        where = f"{key}.{name}".lstrip(".")
        found = table.get(name, [])
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            self._problem(where, f"must be an array of tables, written [[{where}]]")
            return []
        return [(item, f"{where}[{index}]") for index, item in enumerate(found)]

    def _refuse_unknown(self, table: Mapping[str, Any], known: Sequence[str], key: str) -> None:
        for name in table:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
                self._problem(f"{key}.{name}".lstrip("."), f"unknown key; {hint}")

    def _problem(self, key: str, text: str) -> None:
        self.problems.append(f"{self._file}: {key}: {text}")
