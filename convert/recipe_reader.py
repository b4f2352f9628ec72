"""recipe.toml -> Recipe. All mistakes are reported together, with file and key.

A model file with flags becomes the same document (convert.flags), so that there is one reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from convert.original import PRECISIONS
from convert.recipe import (
    RECIPE,
    RUNTIMES,
    VARIANTS,
    Bounds,
    CalibrationSection,
    DataSection,
    DataSource,
    EvaluationSection,
    Gate,
    InputSection,
    ModelSection,
    OutputSection,
    Recipe,
    prepare,
)
from edge import seams
from edge.config import decode_adapter
from edge.errors import BundleError, ConfigError
from edge.manifest import Decoder, ImagePreprocess, LogMel, Task, Thresholds, WindowPreprocess
from edge.toml_reader import TomlReader, read_toml

_WEIGHTS = (".safetensors", ".pt", ".pth")
_NAMELESS = ("anomaly", "depth", "embed")
_DECODERS = {
    "detect": "ltrb_grid",
    "classify": "softmax",
    "segment": "semantic",
    "anomaly": "anomaly",
    "depth": "depth",
    "regress": "regression",
    "embed": "embedding",
}


def load(folder: Path) -> Recipe:
    """Read and check the recipe.toml of a model folder. ConfigError with every mistake in it."""
    return read(*document(folder))


def document(folder: Path) -> tuple[dict[str, Any], Path]:
    """What stands in the recipe.toml of a model folder, unchecked, and where it lies."""
    file = folder / RECIPE
    return read_toml(file, missing=f"name a folder that holds a {RECIPE}"), file


def read(document: dict[str, Any], file: Path) -> Recipe:
    """The recipe in a document; mistakes name `file`, and paths start in its folder."""
    reader = _Reader(file)
    recipe = reader.recipe(document)
    if reader.problems or recipe is None:
        raise ConfigError(reader.problems)
    return recipe


class _Reader(TomlReader):
    _KEYS = (
        *("name", "version", "summary", "task", "labels", "model", "input", "output"),
        *("preprocess", "decoder", "thresholds", "rule", "calibration", "evaluation", "data"),
        *("licence", "gate", "variants", "runtimes", "dynamic_batch"),
    )

    def recipe(self, document: dict[str, Any]) -> Recipe | None:
        self.refuse_unknown(document, self._KEYS, "")
        task: Any = self.value(document, "task", Task)
        model = self._model(self.table(document, "model"))
        complete = bool(model and model.file)  # such a file knows its own tensors
        outputs = self._sections(OutputSection, document, "output", at_least=0)
        values: dict[str, Any] = {
            "name": self._name(document),
            "version": self.value(document, "version", str),
            "summary": self.value({"summary": "", **document}, "summary", str),
            "task": task,
            "labels": self._labels(document, task),
            "model": model,
            "input": self._input(document, at_least=0 if complete else 1),
            "outputs": tuple(output.name for output in outputs),
            "preprocess": self._preprocess(self.table(document, "preprocess")),
            "decoder": self._decoder(self.table(document, "decoder"), task, outputs),
            "thresholds": self._section(Thresholds, document, "thresholds"),
            "rules": self._rules(document),
            "calibration": self._section(CalibrationSection, document, "calibration"),
            "evaluation": self._section(EvaluationSection, document, "evaluation"),
            "data": self._data(self.table(document, "data")),
            "licences": self._licences(self.table(document, "licence")),
            "gate": self._gate(self.table(document, "gate")),
            "variants": self._names(document, "variants", VARIANTS, default=()),
            "runtimes": self._names(document, "runtimes", RUNTIMES, default=RUNTIMES[:2]),
            "dynamic_batch": self.value(
                {"dynamic_batch": False, **document}, "dynamic_batch", bool
            ),
        }
        if self.problems:
            return None
        self._check_fit(values)
        return Recipe(file=self.file, **values)

    def _name(self, document: Mapping[str, Any]) -> Any:
        name = self.value(document, "name", str)
        if name is not None:
            self.check_name(name, "name")
        return name

    def _labels(self, document: Mapping[str, Any], task: Any) -> Any:
        """A list of names, or a file with one name a line; there are tasks without any."""
        given = {"labels": [], **document} if task in _NAMELESS else document
        labels = self.value(given, "labels", tuple[str, ...] | str)
        if isinstance(labels, str):
            try:
                lines = self.absolute(labels).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                self.problem("labels", f"{labels}: cannot be read: {error}")
                return None
            labels = tuple(line.strip() for line in lines if line.strip())
        few = not labels and task not in _NAMELESS
        if labels is not None and (few or len(set(labels)) != len(labels)):
            self.problem("labels", "must be one or more, no two the same")
        return labels

    def _model(self, table: dict[str, Any]) -> Any:
        if not table.get("file"):
            table = {"code": "model.py", "weights": "weights.safetensors", **table}
        elif not table.get("code") and self.absolute("model.py").is_file():
            table = {"code": "model.py", **table}
        section: ModelSection | None = self.struct(ModelSection, table, "model")
        if section is None:
            return None
        if section.file and section.weights:
            self.problem("model", "name a whole model in `file`, or `weights` for code, not both")
        hints = {
            "code": "write it",
            "weights": "train the model first, or name the right file",
            "file": "train the model first, or name the right file",
        }
        for key, hint in hints.items():
            name = getattr(section, key)
            if name and not self.absolute(name).is_file():
                self.problem(f"model.{key}", f"{name}: no such file; {hint}")
        if section.weights and Path(section.weights).suffix not in _WEIGHTS:
            self.problem(
                "model.weights",
                "must be .safetensors, or a .pt or .pth that holds tensors alone; nothing is"
                " unpickled",
            )
        return section

    def _input(self, document: Mapping[str, Any], *, at_least: int) -> Any:
        inputs = self._sections(InputSection, document, "input", at_least=at_least)
        if len(inputs) > 1:
            self.problem("input", "only one [[input]] can be converted so far")
        return inputs[0].spec if inputs else None

    def _names(
        self,
        document: Mapping[str, Any],
        key: str,
        known: tuple[str, ...],
        *,
        default: tuple[str, ...],
    ) -> Any:
        """A list of names, each of them a known one; in the order of `known`."""
        found = self.value({key: default, **document}, key, tuple[str, ...])
        for name in found or ():
            if name not in known:
                self.problem(key, f"{name!r} is not one of {', '.join(known)}")
        return tuple(name for name in known if name in (found or ()))

    def _preprocess(self, table: dict[str, Any]) -> Any:
        kinds = {"image": ImagePreprocess, "window": WindowPreprocess}
        rest = dict(table)
        kind = rest.pop("kind", None)
        if kind not in kinds:
            self.problem("preprocess.kind", f"must be one of {', '.join(kinds)}, not {kind!r}")
            return None
        if kind == "window" and "log_mel" in rest:
            nested = self.table(rest, "log_mel", "preprocess")
            rest.pop("log_mel")
            features = self.struct(LogMel, nested, "preprocess.log_mel")
            return self.struct(WindowPreprocess, rest, "preprocess", given={"log_mel": features})
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

    def _data(self, table: dict[str, Any]) -> Any:
        sources = [
            self.struct(DataSource, source, key)
            for source, key in self.array(table, "source", "data")
        ]
        given = {"source": tuple(source for source in sources if source is not None)}
        rest = {key: value for key, value in table.items() if key != "source"}
        section: DataSection | None = self.struct(DataSection, rest, "data", given=given)
        for key in ("calibration", "evaluation", "golden"):
            name = getattr(section, key, "")
            if name and not self.absolute(name).exists():
                self.problem(f"data.{key}", f"{name}: no such folder or file")
        return section

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
            bounds = self.struct(Bounds, {**default, **given}, f"gate.{precision}")
            values[precision.replace("-", "_")] = bounds
        if "lower_is_better" in table:
            values["lower_is_better"] = self.value(
                table, "lower_is_better", tuple[str, ...], key="gate"
            )
        return Gate(**values)

    def _check_fit(self, values: Mapping[str, Any]) -> None:
        """That a stated input fits the preprocessing, by what edge itself says of them."""
        if values["input"] is None:
            return
        try:
            prepare(values["preprocess"], values["input"])
        except BundleError as error:
            self.problem("input[0]", f"does not fit [preprocess]: {error}")

    def _section(self, struct: type[Any], document: Mapping[str, Any], name: str) -> Any:
        return self.struct(struct, self.table(document, name), name)

    def _sections(
        self, struct: type[Any], document: Mapping[str, Any], name: str, *, at_least: int
    ) -> list[Any]:
        tables = self.array(document, name, least=at_least)
        found = [self.struct(struct, table, key) for table, key in tables]
        sections = [section for section in found if section is not None]
        self.refuse_twins(name, [section.name for section in sections])
        return sections
