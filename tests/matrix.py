"""The table of decoders in edge/postprocess/README.md: made from the tests, so that it can't lie.

python tests/matrix.py          writes it
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "edge/postprocess/README.md"
BEGIN, END = "<!-- decoders -->\n", "<!-- end -->\n"

REAL: dict[str, dict[str, str]] = {
    "yolox": {"onnx": "YOLOX-nano"},
    "listed": {"tflite, quantised": "SSD-MobileNet"},
    "scores": {"tflite, quantised": "two MobileNetV2", "tflite": "a digit classifier"},
    "boxes_scores": {"onnx": "UltraFace"},
    "ssd_anchors": {"onnx": "UltraFace, raw", "tflite": "UltraFace, raw; BlazeFace"},
}
"""Models by others on pictures of known content, by format: tests/e2e/test_any_model.py."""
BUNDLES = {"ltrb_grid": "meter_reader", "softmax": "wrist_activity"}
"""Decoders of the bundles of models/, which every format's golden cases cover."""


def table() -> str:
    """The table in Markdown."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/unit"), str(ROOT)]
    import test_decoders
    import test_decoders_maps
    import test_recognize

    from edge import seams

    maps_source = Path(test_decoders_maps.__file__).read_text()
    lines = ["| decoder | recognised | plain loops | quantised | models by others |",
             "| --- | --- | --- | --- | --- |"]  # fmt: skip
    for name in sorted(seams.DECODERS):
        cases = [case for case in test_decoders.CASES.values() if case.decoder == name]
        heads = [key for key, head in test_recognize.HEADS.items() if head[2] == name]
        noted = [key for key, head in test_recognize.METADATA.items() if head[3] == name]
        looped = f"{len(cases)} layouts" if len(cases) > 1 else ("yes" if cases else "")
        if not looped and f'"{name}"' in maps_source:
            looped = "yes"
        if name == "yolo_segment":
            looped = "yes"
        quantised = "uint8, int8" if any(case.quantised for case in cases) else ""
        if name == "softmax":
            quantised = "uint8"
        how = ["by shape and values"] * bool(heads or name in REAL) + ["by metadata"] * bool(noted)
        proof = [f"{model} ({format})" for format, model in REAL.get(name, {}).items()]
        if name in BUNDLES:
            proof.append(f"our {BUNDLES[name]} (onnx, tflite)")
        lines.append(
            f"| `{name}` | {', '.join(how) or 'when named'} | {looped or '-'} |"
            f" {quantised or '-'} | {'; '.join(proof) or '-'} |"
        )
    return "\n".join(lines) + "\n"


def written() -> str:
    """What the README holds now."""
    _, _, rest = README.read_text().partition(BEGIN)
    return rest.partition(END)[0]


if __name__ == "__main__":
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(before + BEGIN + table() + END + rest.partition(END)[2])
