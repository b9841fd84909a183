"""Labels of a scatter, each where it is free: none covers another one, a mark, or the edge."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

STEP = 6.0  # pixels between places that are tried
THROUGH = 15.0  # pixels that a label goes further away, rather than lie on a line
ASTRAY = 20.0  # the same, rather than be as near to the point of another label as to its own
CROSSING = 30.0  # the same, rather than have its line to its point lie on another label
LOST = 1e6  # what a label costs that has no place
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

    The labels are placed one after the other, in several orders, of which the cheapest is taken.
    """
    if len(anchors) != len(sizes):
        raise ValueError(f"{len(anchors)} labels have {len(sizes)} sizes")
    candidates = [_Candidates.of(i, anchors, size, inside, marks, lines) for i, size in enumerate(sizes)]
    first = [tuple(map(float, points[0])) for points in anchors]
    orders = [list(range(len(anchors)))]
    for axis, turned in itertools.product((0, 1), (False, True)):
        orders.append(sorted(orders[0], key=lambda i: first[i][axis], reverse=turned))
    return min((_in_order(candidates, order) for order in orders), key=lambda pair: pair[1])[0]


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Where a label may stand: ``boxes [4, n]``, what each costs, and ``to [n, 2]`` the nearest of its points."""

    boxes: np.ndarray
    cost: np.ndarray
    to: np.ndarray

    @classmethod
    def of(
        cls,
        number: int,
        anchors: Sequence[np.ndarray],
        size: tuple[float, float],
        inside: Box,
        marks: Sequence[Box],
        lines: Sequence[Box],
    ) -> _Candidates:
        """Those of one label, before any other is placed."""
        across = np.arange(inside.left, inside.right - size[0], STEP)
        up = np.arange(inside.bottom, inside.top - size[1], STEP)
        left, bottom = (each.ravel() for each in np.meshgrid(across, up))
        boxes = np.stack([left, bottom, left + size[0], bottom + size[1]])
        boxes = boxes[:, _covered(boxes, marks) == 0]
        away = _distances(boxes, anchors[number])
        cost = away.min(0) + THROUGH * _covered(boxes, lines)
        if others := [points for i, points in enumerate(anchors) if i != number]:
            cost += ASTRAY * (_distances(boxes, np.concatenate(others)).min(0) <= away.min(0))
        return cls(boxes, cost, anchors[number][away.argmin(0)])

    def choose(self, placed: Sequence[Box]) -> tuple[Box | None, float]:
        """The cheapest box that covers none of the others, and what it costs; None where there is none."""
        cost = self.cost + CROSSING * self._crosses(placed)
        cost[_covered(self.boxes, placed) > 0] = np.inf
        if not cost.size or not np.isfinite(cost.min()):
            return None, LOST
        best = cost.argmin()
        return Box(*map(float, self.boxes[:, best])), float(cost[best])

    def _crosses(self, placed: Sequence[Box]) -> np.ndarray:
        """``[n]`` whether a line from a box to its point lies on another label."""
        left, bottom, right, top = self.boxes
        x, y = self.to.T
        start = np.clip(x, left, right), np.clip(y, bottom, top)
        crossed = np.zeros(len(x), dtype=bool)
        for part in (0.2, 0.4, 0.6, 0.8):
            px, py = (s + part * (end - s) for s, end in zip(start, (x, y)))
            for box in placed:
                crossed |= (box.left < px) & (px < box.right) & (box.bottom < py) & (py < box.top)
        return crossed


def _in_order(candidates: Sequence[_Candidates], order: Sequence[int]) -> tuple[list[Box | None], float]:
    """Labels placed one after the other, and what all of them cost."""
    placed, total = dict[int, Box | None](), 0.0
    for number in order:
        box, cost = candidates[number].choose([box for box in placed.values() if box is not None])
        placed[number], total = box, total + cost
    return [placed[number] for number in range(len(candidates))], total


def _covered(boxes: np.ndarray, others: Sequence[Box]) -> np.ndarray:
    """``[n]`` how many of the others each of ``boxes [4, n]`` covers."""
    left, bottom, right, top = boxes
    count = np.zeros(boxes.shape[1])
    for other in others:
        count += (left < other.right) & (other.left < right) & (bottom < other.top) & (other.bottom < top)
    return count


def _distances(boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """``[m, n]`` pixels from each of ``boxes [4, n]`` to each of ``points [m, 2]``."""
    left, bottom, right, top = boxes
    return np.array([np.hypot(np.clip(x, left, right) - x, np.clip(y, bottom, top) - y) for x, y in points])


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
