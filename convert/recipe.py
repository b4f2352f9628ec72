"""recipe.toml -> frozen structs; RECIPE.md is the written format.

All mistakes are reported together, with file and key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from convert.original import PRECISIONS
from edge import seams
from edge.config import decode_adapter
from edge.errors import ConfigError
from edge.manifest import Decoder, ImagePreprocess, Preprocess, Thresholds, WindowPreprocess
from edge.preprocess import ImagePreprocessor, Preprocessor, WindowPreprocessor
from edge.toml_reader import TomlReader, read_toml
from edge.types import Layout, TensorSpec

RECIPE = "recipe.toml"
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
    fp16: Bounds = Bounds(
        max_error=0.02, p99_error=0.01, agreement=0.98, mean_iou=0.95, accuracy_drop=0.01
    )
    int8_dynamic: Bounds = Bounds(
        max_error=float("inf"), p99_error=0.05, agreement=0.97, mean_iou=0.9, accuracy_drop=0.015
    )
    int8: Bounds = Bounds(
        max_error=float("inf"), p99_error=0.1, agreement=0.95, mean_iou=0.85, accuracy_drop=0.02
    )
    lower_is_better: tuple[str, ...] = ()

    def bounds(self, precision: str) -> Bounds:
        """The bounds for one precision."""
        return cast(Bounds, getattr(self, precision.replace("-", "_")))


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
    document = read_toml(file, missing=f"name a folder that holds a {RECIPE}")
    reader = _Reader(file)
    recipe = reader.recipe(document)
    if reader.problems or recipe is None:
        raise ConfigError(reader.problems)
    return recipe


class _Reader(TomlReader):
    _KEYS = (
        *("name", "version", "summary", "task", "labels", "model", "input", "output"),
        *("preprocess", "decoder", "thresholds", "rule", "data", "licence", "gate"),
    )

    def recipe(self, document: dict[str, Any]) -> Recipe | None:
        self.refuse_unknown(document, self._KEYS, "")
        task: Any = self.value(document, "task", Literal["detect", "classify"])
        outputs = self._sections(OutputSection, document, "output", at_least=1)
        values: dict[str, Any] = {
            "name": self._name(document),
            "version": self.value(document, "version", str),
            "summary": self.value({"summary": "", **document}, "summary", str),
            "task": task,
            "labels": self._labels(document),
            "model": self._model(self.table(document, "model")),
            "input": self._input(document),
            "outputs": tuple(output.name for output in outputs),
            "preprocess": self._preprocess(self.table(document, "preprocess")),
            "decoder": self._decoder(self.table(document, "decoder"), task, outputs),
            "thresholds": self.struct(Thresholds, self.table(document, "thresholds"), "thresholds"),
            "rules": self._rules(document),
            "data": self._data(self.table(document, "data")),
            "licences": self._licences(self.table(document, "licence")),
            "gate": self._gate(self.table(document, "gate")),
        }
        if self.problems:
            return None
        self._check_fit(values)
        return Recipe(folder=self.file.parent, **values)

    def _name(self, document: Mapping[str, Any]) -> Any:
        name = self.value(document, "name", str)
        if name is not None:
            self.check_name(name, "name")
        return name

    def _labels(self, document: Mapping[str, Any]) -> Any:
        labels = self.value(document, "labels", tuple[str, ...])
        if labels is not None and (not labels or len(set(labels)) != len(labels)):
            self.problem("labels", "must be one or more, no two the same")
        return labels

    def _model(self, table: dict[str, Any]) -> Any:
        section = self.struct(ModelSection, table, "model")
        hints = {"code": "write it", "weights": "train the model first, or name the right file"}
        for key, hint in hints.items():
            name = getattr(section, key, None)
            if name is not None and not (self.file.parent / name).is_file():
                self.problem(f"model.{key}", f"{name}: no such file; {hint}")
        if section is not None and not section.weights.endswith(".safetensors"):
            self.problem("model.weights", "must be a .safetensors file; nothing is unpickled")
        return section

    def _input(self, document: Mapping[str, Any]) -> Any:
        inputs = self._sections(InputSection, document, "input", at_least=1)
        if len(inputs) > 1:
            self.problem("input", "only one [[input]] can be converted so far")
        return inputs[0] if inputs else None

    def _preprocess(self, table: dict[str, Any]) -> Any:
        kinds = {"image": ImagePreprocess, "window": WindowPreprocess}
        rest = dict(table)
        kind = rest.pop("kind", None)
        if kind not in kinds:
            self.problem("preprocess.kind", f"must be one of {', '.join(kinds)}, not {kind!r}")
            return None
        return self.struct(kinds[kind], rest, "preprocess")

    def _decoder(self, table: dict[str, Any], task: Any, outputs: Sequence[OutputSection]) -> Any:
        params = dict(table)
        name = params.pop("name", _DECODERS.get(task))
        try:
            decoder = seams.find("decoders", str(name))
        except ConfigError as error:
            self.problem("decoder.name", str(error))
            return None
        decoded = self.struct(decoder.Params, params, "decoder")
        names = [output.name for output in outputs]
        for key in ("boxes", "scores"):
            wanted = getattr(decoded, key, None)
            if wanted is not None and names and wanted not in names:
                self.problem(f"decoder.{key}", f"no [[output]] is called {wanted!r}")
        return Decoder(name=str(name), params=params)

    def _rules(self, document: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        rules = self.array(document, "rule")
        for rule, key in rules:
            try:
                decode_adapter("rules", rule, where=f"{self.file}: {key}")
            except ConfigError as error:
                self.problems += error.problems
        return tuple(rule for rule, _ in rules)

    def _data(self, table: dict[str, Any]) -> tuple[DataSource, ...]:
        self.refuse_unknown(table, ["source"], "data")
        found = [
            self.struct(DataSource, source, key)
            for source, key in self.array(table, "source", "data")
        ]
        return tuple(source for source in found if source is not None)

    def _licences(self, table: dict[str, Any]) -> dict[str, str]:
        for key, value in table.items():
            if not isinstance(value, str):
                self.problem(f"licence.{key}", "must be a text")
        if "weights" not in table:
            self.problem("licence.weights", "missing")
        return table

    def _gate(self, table: dict[str, Any]) -> Gate:
        defaults = Gate()
        self.refuse_unknown(table, (*PRECISIONS, "lower_is_better"), "gate")
        values: dict[str, Any] = {}
        for precision in PRECISIONS:
            default = msgspec.structs.asdict(defaults.bounds(precision))
            given = self.table(table, precision, "gate")
            values[precision.replace("-", "_")] = self.struct(
                Bounds, {**default, **given}, f"gate.{precision}"
            )
        if "lower_is_better" in table:
            values["lower_is_better"] = self.value(
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
            self.problem("preprocess.folded", "cannot be converted so far; leave it out")
            return
        try:
            build(values["preprocess"], values["input"].spec)
        except Exception as error:
            self.problem("input[0]", f"does not fit [preprocess]: {error}")

    def _sections(
        self, struct: type[Any], document: Mapping[str, Any], name: str, *, at_least: int
    ) -> list[Any]:
        tables = self.array(document, name, least=at_least)
        found = [self.struct(struct, table, key) for table, key in tables]
        sections = [section for section in found if section is not None]
        self.refuse_twins(name, [section.name for section in sections])
        return sections
