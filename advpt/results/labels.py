"""Labels of a scatter, each where it is free: none covers another one, a mark, or the edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

STEP = 6.0  # pixels between places that are tried
THROUGH = 15.0  # pixels that a label goes further away, rather than lie on a line
SIZE = 7  # of letters, in points
MARK = 3.5  # half the width of a mark, in points
FAR = 8.0  # pixels, from which on a line leads from a label to its point


class Box(NamedTuple):
    """A rectangle, its sides in pixels from the lower left corner of the figure."""

    left: float
    bottom: float
    right: float
    top: float

    def covers(self, other: Box) -> bool:
        """Whether the two have an area in common."""
        apart = self.left >= other.right or other.left >= self.right
        return not (apart or self.bottom >= other.top or other.bottom >= self.top)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Its point that is nearest to another one."""
        return min(max(x, self.left), self.right), min(max(y, self.bottom), self.top)


def place(
    anchors: Sequence[np.ndarray],
    sizes: Sequence[tuple[float, float]],
    inside: Box,
    marks: Sequence[Box],
    lines: Sequence[Box] = (),
) -> list[Box | None]:
    """A box for each label, as near to one of its points as is free; None where nothing is.

    Args:
        anchors: for each label ``[points, 2]``, what it may stand beside. sizes: width and height of each.
        inside: what no label leaves. marks: what no label covers. lines: what a label covers only if it would have
            to go far away.
    """
    hard = list(marks)
    placed: list[Box | None] = []
    for points, (width, height) in zip(anchors, sizes, strict=True):
        across = np.arange(inside.left, inside.right - width, STEP)
        up = np.arange(inside.bottom, inside.top - height, STEP)
        left, bottom = (each.ravel() for each in np.meshgrid(across, up))
        boxes = np.stack([left, bottom, left + width, bottom + height])
        boxes = boxes[:, _covered(boxes, hard) == 0]
        if not boxes.size:
            placed.append(None)
            continue
        cost = _distance(boxes, points) + THROUGH * _covered(boxes, lines)
        best = Box(*map(float, boxes[:, cost.argmin()]))
        placed.append(best)
        hard.append(best)
    return placed


def _covered(boxes: np.ndarray, others: Sequence[Box]) -> np.ndarray:
    """``[n]`` how many of the others each of ``boxes [4, n]`` covers."""
    left, bottom, right, top = boxes
    count = np.zeros(boxes.shape[1])
    for other in others:
        count += (left < other.right) & (other.left < right) & (bottom < other.top) & (other.bottom < top)
    return count


def _distance(boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """``[n]`` pixels from each of ``boxes [4, n]`` to the nearest of ``points [m, 2]``."""
    left, bottom, right, top = boxes
    gaps = [np.hypot(np.clip(x, left, right) - x, np.clip(y, bottom, top) - y) for x, y in points]
    return np.asarray(np.min(gaps, axis=0))


def write_labels(axis: Any, points: Mapping[str, Sequence[tuple[float, float]]], lines: Sequence[np.ndarray]) -> None:
    """Write each label once, beside one of its points. The layout of the figure is settled.

    Args:
        points: by label, in the units of the axes. lines: from where to where each line goes that labels had better not
            cover, ``[2, 2]``.
    """
    figure, to_pixels = axis.figure, axis.transData.transform
    anchors = [to_pixels(np.array(at)) for at in points.values()]
    around = MARK * figure.dpi / 72
    marks = [Box(x - around, y - around, x + around, y + around) for at in anchors for x, y in at]
    edges = [np.sort(to_pixels(line), axis=0) for line in lines]
    frame, renderer = axis.get_window_extent(), figure.canvas.get_renderer()
    sizes = []
    for label in points:
        text = axis.text(0, 0, label, fontsize=SIZE)
        extent = text.get_window_extent(renderer)
        sizes.append((extent.width + 4, extent.height + 2))
        text.remove()
    inside, bars = Box(frame.x0 + 2, frame.y0 + 2, frame.x1 - 2, frame.y1 - 2), [Box(*edge.ravel()) for edge in edges]
    for label, at, box in zip(points, anchors, place(anchors, sizes, inside, marks, bars)):
        if box is None:
            continue  # the panel is full; the CSV has every point
        gaps = [np.hypot(*np.subtract(box.nearest(*point), point)) for point in at]
        nearest = int(np.argmin(gaps))
        corner = axis.transAxes.inverted().transform((box.left + 2, box.bottom + 1))
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": "#777777", "shrinkA": 0, "shrinkB": 2}
        axis.annotate(
            label,
            points[label][nearest],
            xytext=corner,
            textcoords="axes fraction",
            fontsize=SIZE,
            va="bottom",
            arrowprops=line if gaps[nearest] > around + FAR else None,
        )
