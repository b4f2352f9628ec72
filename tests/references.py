"""Decoders once more, as their papers and upstream projects say it: plain loops over Python floats.

They share nothing with edge. Rows are given as nested lists; boxes come out as dicts with `box`
(x1, y1, x2, y2 in input pixels), `score`, `class` and what else the head has, best first.
"""

from __future__ import annotations

import math
from typing import Any

Found = list[dict[str, Any]]
Rows = list[list[float]]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def softmax(values: list[float]) -> list[float]:
    top = max(values)
    raised = [math.exp(value - top) for value in values]
    return [value / sum(raised) for value in raised]


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def keep_best(found: Found, threshold: float, overlap: Any = None) -> Found:
    """Greedy suppression within a class; of equal scores the one that came first."""
    kept: Found = []
    overlap = overlap or (lambda a, b: iou(a["box"], b["box"]))
    for candidate in sorted(found, key=lambda one: -one["score"]):
        rivals = [one for one in kept if one["class"] == candidate["class"]]
        if all(overlap(one, candidate) <= threshold for one in rivals):
            kept.append(candidate)
    return kept


def centred(x: float, y: float, w: float, h: float) -> list[float]:
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def best_class(values: list[float]) -> int:
    return max(range(len(values)), key=lambda index: (values[index], -index))


def grid(width: int, height: int, strides: list[int]) -> list[tuple[int, int, int]]:
    """Column, row and stride of every cell."""
    return [
        (column, row, stride)
        for stride in strides
        for row in range(math.ceil(height / stride))
        for column in range(math.ceil(width / stride))
    ]


# ---- YOLO


def yolov8(rows: Rows, classes: int, score: float) -> Found:
    found: Found = []
    for row in rows:
        values = row[4 : 4 + classes]
        index = best_class(values)
        if values[index] >= score:
            found.append(
                {
                    "box": centred(*row[:4]),
                    "xywh": row[:4],
                    "score": values[index],
                    "class": index,
                    "rest": row[4 + classes :],
                }
            )
    return found


def yolov5(rows: Rows, classes: int, score: float) -> Found:
    found: Found = []
    for row in rows:
        index = best_class(row[5 : 5 + classes])
        value = row[4] * row[5 + index]
        if value >= score:
            found.append({"box": centred(*row[:4]), "score": value, "class": index})
    return found


def yolox(rows: Rows, classes: int, score: float, size: tuple[int, int]) -> Found:
    decoded = []
    for row, (column, line, stride) in zip(rows, grid(*size, [8, 16, 32]), strict=True):
        x, y = (row[0] + column) * stride, (row[1] + line) * stride
        decoded.append([x, y, math.exp(row[2]) * stride, math.exp(row[3]) * stride, *row[4:]])
    return yolov5(decoded, classes, score)


def end_to_end(rows: Rows, score: float) -> Found:
    found = [
        {"box": row[:4], "xywh": row[:4], "score": row[4], "class": round(row[5]), "rest": row[6:]}
        for row in rows
        if row[4] >= score
    ]
    return sorted(found, key=lambda one: -one["score"])


# ---- distributions, one grid


def distribution(
    rows: Rows, classes: int, score: float, size: tuple[int, int], strides: list[int], offset: float
) -> Found:
    found: Found = []
    for row, (column, line, stride) in zip(rows, grid(*size, strides), strict=True):
        index = best_class(row[:classes])
        if row[index] < score:
            continue
        sides = []
        for side in range(4):
            start = classes + 8 * side
            chances = softmax(row[start : start + 8])
            sides.append(sum(k * chance for k, chance in enumerate(chances)) * stride)
        x, y = (column + offset) * stride, (line + offset) * stride
        box = [x - sides[0], y - sides[1], x + sides[2], y + sides[3]]
        found.append({"box": box, "score": row[index], "class": index})
    return found


def fastestdet(planes: list[Rows], score: float, size: tuple[int, int]) -> Found:
    found: Found = []
    height, width = len(planes[0]), len(planes[0][0])
    for line in range(height):
        for column in range(width):
            cell = [plane[line][column] for plane in planes]
            index = best_class(cell[5:])
            value = cell[0] ** 0.6 * cell[5 + index] ** 0.4
            if value < score:
                continue
            x, y = (math.tanh(cell[1]) + column) / width, (math.tanh(cell[2]) + line) / height
            w, h = sigmoid(cell[3]), sigmoid(cell[4])
            box = centred(x * size[0], y * size[1], w * size[0], h * size[1])
            found.append({"box": box, "score": value, "class": index})
    return found


# ---- boxes and scores apart


def ssd(
    offsets: Rows, values: Rows, anchors: Rows, score: float, variances: list[float], linear: bool
) -> Found:
    """Background first when there are several values, a sigmoid of the one value else."""
    found: Found = []
    for row, logits, (ax, ay, aw, ah) in zip(offsets, values, anchors, strict=True):
        chances = softmax(logits)[1:] if len(logits) > 1 else [sigmoid(logits[0])]
        index = best_class(chances)
        if chances[index] < score:
            continue
        x, y = ax + row[0] * variances[0] * aw, ay + row[1] * variances[1] * ah
        w, h = row[2] * variances[2], row[3] * variances[3]
        w, h = (w * aw, h * ah) if linear else (math.exp(w) * aw, math.exp(h) * ah)
        points = [
            (ax + row[k] * variances[0] * aw, ay + row[k + 1] * variances[1] * ah)
            for k in range(4, len(row), 2)
        ]
        box = centred(x, y, w, h)
        found.append({"box": box, "score": chances[index], "class": index, "points": points})
    return found


def prior_boxes(
    width: int, height: int, levels: list[tuple[float, list[tuple[float, float]]]]
) -> Rows:
    anchors = []
    for stride, sizes in levels:
        for line in range(math.ceil(height / stride)):
            for column in range(math.ceil(width / stride)):
                for w, h in sizes:
                    anchors.append([(column + 0.5) * stride, (line + 0.5) * stride, w, h])
    return anchors


def boxes_scores(boxes: Rows, values: Rows, score: float) -> Found:
    found: Found = []
    for box, row in zip(boxes, values, strict=True):
        index = best_class(row)
        if row[index] >= score:
            found.append({"box": box, "score": row[index], "class": index})
    return found


def listed(
    boxes: Rows, scores: list[float], classes: list[float], count: int, score: float
) -> Found:
    found: Found = []
    for box, value, index in list(zip(boxes, scores, classes, strict=True))[:count]:
        if value >= score:
            y1, x1, y2, x2 = box
            found.append({"box": [x1, y1, x2, y2], "score": value, "class": round(index)})
    return sorted(found, key=lambda one: -one["score"])


def detr(logits: Rows, boxes: Rows, score: float, size: tuple[int, int], one_each: bool) -> Found:
    """`one_each`: softmax, the last logit for no object; else a sigmoid for every class."""
    found: Found = []
    for row, (x, y, w, h) in zip(logits, boxes, strict=True):
        box = centred(x * size[0], y * size[1], w * size[0], h * size[1])
        if one_each:
            chances = softmax(row)[:-1]
            pairs = [(chances[best_class(chances)], best_class(chances))]
        else:
            pairs = [(sigmoid(value), index) for index, value in enumerate(row)]
        found += [{"box": box, "score": s, "class": c} for s, c in pairs if s >= score]
    return sorted(found, key=lambda one: -one["score"])


# ---- boxes at an angle


def corners(xywh: list[float], angle: float) -> list[tuple[float, float]]:
    x, y, w, h = xywh
    cos, sin = math.cos(angle), math.sin(angle)
    return [
        (x + dx * cos - dy * sin, y + dx * sin + dy * cos)
        for dx, dy in ((w / 2, h / 2), (w / 2, -h / 2), (-w / 2, -h / 2), (-w / 2, h / 2))
    ]


def _area(polygon: list[tuple[float, float]]) -> float:
    turns = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return abs(sum(ax * by - bx * ay for (ax, ay), (bx, by) in turns)) / 2


def polygon_iou(a: list[tuple[float, float]], b: list[tuple[float, float]]) -> float:
    """Sutherland and Hodgman 1974: `a` is cut by every edge of `b`."""
    shared = a
    signed = sum(ax * by - bx * ay for (ax, ay), (bx, by) in zip(b, b[1:] + b[:1], strict=True))
    for (ax, ay), (bx, by) in zip(b, b[1:] + b[:1], strict=True):

        def side(
            p: tuple[float, float], ax: Any = ax, ay: Any = ay, bx: Any = bx, by: Any = by
        ) -> float:
            value: float = (bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax)
            return value if signed > 0 else -value

        clipped: list[tuple[float, float]] = []
        for p, q in zip(shared, shared[1:] + shared[:1], strict=True):
            if side(p) >= 0:
                clipped.append(p)
            if (side(p) >= 0) != (side(q) >= 0):
                t = side(p) / (side(p) - side(q))
                clipped.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
        shared = clipped
        if len(shared) < 3:
            return 0.0
    overlap = _area(shared)
    return overlap / (_area(a) + _area(b) - overlap)


# ---- heat maps


def heat_peaks(planes: list[Rows], size: tuple[int, int]) -> list[tuple[float, float, float]]:
    """x and y in input pixels and the peak, of each map."""
    points = []
    for plane in planes:
        height, width = len(plane), len(plane[0])
        peak = max(max(row) for row in plane)
        line, column = next(
            (y, x) for y in range(height) for x in range(width) if plane[y][x] == peak
        )
        x, y = float(column), float(line)
        if 0 < column < width - 1 and 0 < line < height - 1:
            dx = plane[line][column + 1] - plane[line][column - 1]
            dy = plane[line + 1][column] - plane[line - 1][column]
            x += 0.25 * ((dx > 0) - (dx < 0))
            y += 0.25 * ((dy > 0) - (dy < 0))
        points.append(((x + 0.5) * size[0] / width, (y + 0.5) * size[1] / height, peak))
    return points


def between(plane: Rows, x: float, y: float) -> float:
    """The value between four cells, whose centres lie at whole numbers; at the border its own."""
    height, width = len(plane), len(plane[0])
    left, top = math.floor(x), math.floor(y)
    value = 0.0
    for line, share_y in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, share_x in ((left, 1 - (x - left)), (left + 1, x - left)):
            row = plane[min(max(line, 0), height - 1)]
            value += share_x * share_y * row[min(max(column, 0), width - 1)]
    return value
