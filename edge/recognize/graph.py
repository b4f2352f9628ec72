"""What stands in a model file beside its tensors: metadata, operators, labels. Read without a
library: ONNX is protocol buffers, TFLite a flatbuffer with a zip archive behind it.

Invariant: whatever the bytes are, the answer is a `Graph`; what cannot be read is left out.
"""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import struct
import zipfile
from collections.abc import Iterator
from typing import Any

_MAX_MEMBER_BYTES = 1 << 20
_MAX_MEMBERS = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operator:
    """One node: its type, and the names of what goes in and out."""

    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """The facts of one file. `normalisation` is (mean, std) from TFLite metadata, `labels` too."""

    producer: str = ""
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    operators: tuple[Operator, ...] = ()
    outputs: tuple[str, ...] = ()
    shapes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] = ()
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @property
    def types(self) -> frozenset[str]:
        """All types of operators in it."""
        return frozenset(operator.type for operator in self.operators)

    def consumers(self, name: str) -> tuple[Operator, ...]:
        """The operators that take a tensor."""
        return tuple(operator for operator in self.operators if name in operator.inputs)

    def maker(self, name: str) -> str:
        """The type of the operator that computes a tensor, behind those that only move values."""
        makers = {out: operator for operator in self.operators for out in operator.outputs}
        for _ in range(20):
            operator = makers.get(name)
            if operator is None:
                return ""
            if operator.type not in _MOVES or not operator.inputs:
                return operator.type
            name = operator.inputs[0]
        return ""


_MOVES = {
    *("Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Cast"),
    *("DequantizeLinear", "QuantizeLinear", "RESHAPE", "QUANTIZE", "DEQUANTIZE", "CAST"),
}
_BROKEN = (struct.error, IndexError, ValueError, KeyError, UnicodeDecodeError, OverflowError)


def read(model: bytes, format: str) -> Graph:
    """The graph of an ONNX or TFLite file; an empty one when the bytes are not like that."""
    try:
        return _read_onnx(memoryview(model)) if format == "onnx" else _read_tflite(model)
    except (*_BROKEN, RecursionError, MemoryError):
        return Graph()


def literal(text: str) -> Any:
    """A Python or JSON literal, as exporters write into metadata; None when it is none."""
    if len(text) > _MAX_MEMBER_BYTES:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return None


# ---- protocol buffers


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number that does not end")


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and value of each field; the values of others than integers as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(data):
            raise ValueError("cut off")
        yield key >> 3, data[at : at + size]
        at += size


def _text(value: Any) -> str:
    return bytes(value).decode("utf-8", "replace")


def _read_onnx(model: memoryview) -> Graph:
    producer, metadata = "", {}
    operators: list[Operator] = []
    outputs: list[str] = []
    for number, value in _fields(model):
        if number == 2:
            producer = _text(value)
        elif number == 14:
            entry = {part: _text(inner) for part, inner in _fields(value)}
            metadata[entry.get(1, "")] = entry.get(2, "")
        elif number == 7:
            for part, inner in _fields(value):
                if part == 1:
                    operators.append(_onnx_node(inner))
                elif part == 12:
                    outputs += [_text(name) for key, name in _fields(inner) if key == 1]
    return Graph(
        producer=producer, metadata=metadata, operators=tuple(operators), outputs=tuple(outputs)
    )


def _onnx_node(data: memoryview) -> Operator:
    names: dict[int, list[str]] = {1: [], 2: [], 4: []}
    for number, value in _fields(data):
        if number in names:
            names[number].append(_text(value))
    return Operator(type="".join(names[4]), inputs=tuple(names[1]), outputs=tuple(names[2]))


# ---- flatbuffers


class _Flat:
    """A table of a flatbuffer: fields by their number in the schema."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at
        self._slots = at - struct.unpack_from("<i", data, at)[0]
        self._count = (struct.unpack_from("<H", data, self._slots)[0] - 4) // 2

    @classmethod
    def root(cls, data: bytes) -> _Flat:
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def _place(self, field: int) -> int | None:
        if field >= self._count:
            return None
        offset = struct.unpack_from("<H", self.data, self._slots + 4 + 2 * field)[0]
        return self.at + offset if offset else None

    def number(self, field: int, form: str = "<i", default: int = 0) -> int:
        place = self._place(field)
        return default if place is None else int(struct.unpack_from(form, self.data, place)[0])

    def _vector(self, field: int) -> tuple[int, int]:
        """Where a vector's items begin, and how many there are."""
        place = self._place(field)
        if place is None:
            return 0, 0
        start = place + struct.unpack_from("<I", self.data, place)[0]
        count = struct.unpack_from("<I", self.data, start)[0]
        if start + 4 + count > len(self.data):
            raise ValueError("cut off")
        return start + 4, count

    def items(self, field: int, form: str) -> tuple[Any, ...]:
        start, count = self._vector(field)
        return struct.unpack_from(f"<{count}{form}", self.data, start) if count else ()

    def raw(self, field: int) -> bytes:
        start, count = self._vector(field)
        return self.data[start : start + count]

    def text(self, field: int) -> str:
        return self.raw(field).decode("utf-8", "replace")

    def table(self, field: int) -> _Flat | None:
        place = self._place(field)
        if place is None:
            return None
        return _Flat(self.data, place + struct.unpack_from("<I", self.data, place)[0])

    def tables(self, field: int) -> list[_Flat]:
        start, count = self._vector(field)
        places = range(start, start + 4 * count, 4)
        return [
            _Flat(self.data, place + struct.unpack_from("<I", self.data, place)[0])
            for place in places
        ]


_BUILTIN = {
    0: "ADD", 6: "DEQUANTIZE", 11: "L2_NORMALIZATION", 14: "LOGISTIC", 18: "MUL", 22: "RESHAPE",
    25: "SOFTMAX", 41: "SUB", 42: "DIV", 53: "CAST", 114: "QUANTIZE",
}  # fmt: skip
_CUSTOM = 32


def _read_tflite(model: bytes) -> Graph:
    root = _Flat.root(model)
    codes = []
    for code in root.tables(1):
        number = max(code.number(0, "<b"), code.number(3))
        codes.append(code.text(1) if number == _CUSTOM else _BUILTIN.get(number, str(number)))
    subgraph = root.tables(2)[0]
    tensors = subgraph.tables(0)
    names = [tensor.text(3) for tensor in tensors]
    operators = tuple(
        Operator(
            type=codes[operator.number(0, "<I")],
            inputs=tuple(names[index] for index in operator.items(1, "i") if index >= 0),
            outputs=tuple(names[index] for index in operator.items(2, "i")),
        )
        for operator in subgraph.tables(3)
    )
    graph = Graph(
        producer="tflite",
        operators=operators,
        outputs=tuple(names[index] for index in subgraph.items(2, "i")),
        shapes={
            name: tuple(tensor.items(0, "i")) for name, tensor in zip(names, tensors, strict=True)
        },
    )
    metadata, labels = _zip_contents(model)
    normalisation = None
    try:
        normalisation = _normalisation(root)
    except _BROKEN:
        pass
    return dataclasses.replace(graph, metadata=metadata, labels=labels, normalisation=normalisation)


def _normalisation(root: _Flat) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std of the first input, from the buffer TFLITE_METADATA."""
    buffers = root.tables(4)
    for entry in root.tables(6):
        if entry.text(0) != "TFLITE_METADATA":
            continue
        stored = _Flat.root(buffers[entry.number(1, "<I")].raw(0))
        for subgraph in stored.tables(3)[:1]:
            for tensor in subgraph.tables(2)[:1]:
                for unit in tensor.tables(4):
                    options = unit.table(1)
                    if unit.number(0, "<B") == 1 and options is not None:
                        return tuple(options.items(0, "f")), tuple(options.items(1, "f"))
    return None


def _zip_contents(model: bytes) -> tuple[dict[str, str], tuple[str, ...]]:
    """Metadata and labels from the archive behind a TFLite file."""
    metadata: dict[str, str] = {}
    labels: tuple[str, ...] = ()
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            for member in archive.infolist()[:_MAX_MEMBERS]:
                with archive.open(member) as file:
                    text = file.read(_MAX_MEMBER_BYTES).decode("utf-8", "replace")
                plain = literal(text)
                if isinstance(plain, dict):
                    metadata |= {str(key): str(value) for key, value in plain.items()}
                elif "label" in member.filename.lower() and not labels:
                    labels = tuple(line.strip() for line in text.splitlines() if line.strip())
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, *_BROKEN):
        pass
    except Exception as error:  # zlib.error and lzma's have no common base
        if type(error).__module__ not in ("zlib", "_lzma"):
            raise
    return metadata, labels
