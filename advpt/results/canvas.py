"""What all figures share: an empty canvas, a legend that fits, ticks that do not touch, PNG and PDF files. Nothing in
a name from a record is taken for a formula."""

from __future__ import annotations

import contextlib
import io
import logging
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advpt.files import atomic_path

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # another number than colours: 56 series differ
HATCHES = ("", "///", "...", "xxx", "\\\\\\")
DPI = 180
ACROSS = 3  # panels side by side, where there is room
PANEL = 4.4  # inches
LEGEND_WIDTH = 60  # letters, from which on an entry is broken
SPACE = 4  # pixels between two ticks
STYLE = {
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "text.parse_math": False,
    "figure.dpi": DPI,
}


@dataclass(frozen=True)
class Drawing:
    """A figure for a page.

    Args:
        files: its image, and others that lie beside it. narrow: a PNG for narrow screens, empty where it is the same.
        text: what those read who do not see it. caption: below it. ids: of the records behind it.
    """

    files: tuple[Path, ...]
    narrow: bytes
    text: str
    caption: str
    ids: tuple[str, ...] = ()


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Inside it all figures are drawn and written."""
    import matplotlib

    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every step of embedding a font in a PDF
    with matplotlib.rc_context(STYLE):
        yield


def blank(panels: int, across: int, height: float, width: float = PANEL) -> tuple[Any, list[Any]]:
    """A figure and the axes of its panels, ``across`` of them side by side, each ``width`` x ``height`` inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(across, panels)
    down = -(-panels // across)
    canvas = Figure(figsize=(width * across, height * down + 0.5), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = list(canvas.subplots(down, across, squeeze=False).ravel())
    for axis in axes[panels:]:
        axis.set_visible(False)
    return canvas, axes[:panels]


def plain(text: str, width: int = 0) -> str:
    """A name that may stand in a figure: on one line, or broken at ``width`` letters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return "\n".join(textwrap.wrap(line, width)) if width else line


def finish(canvas: Any, handles: Mapping[str, Any]) -> None:
    """Set the legend below the panels, in as many columns as fit, settle the layout, and make room between ticks."""
    if handles:
        names = [plain(name, LEGEND_WIDTH) for name in handles]
        for columns in range(min(4, len(handles)), 0, -1):
            legend = canvas.legend(
                list(handles.values()), names, loc="outside lower center", ncols=columns, fontsize=8, frameon=False
            )
            for shown, name in zip(legend.get_texts(), names):
                shown.set_text(name)
            if columns == 1 or legend.get_window_extent(_renderer(canvas)).width <= canvas.bbox.width:
                break
            legend.remove()
    canvas.draw_without_rendering()
    changed = [_separate(axis) for axis in canvas.axes if axis.get_visible()]
    if any(changed):
        canvas.draw_without_rendering()
    canvas.set_layout_engine("none")


def _separate(axis: Any) -> bool:
    """Turn the names below an axis upright where they touch; of touching numbers leave some out. Whether it did."""
    low, high = axis.get_xlim()
    ticks = [(at, label) for at, label in zip(axis.get_xticks(), axis.get_xticklabels()) if low <= at <= high]
    boxes = [label.get_window_extent() for _, label in ticks]
    if not any(one.x1 + SPACE > other.x0 for one, other in zip(boxes, boxes[1:])):
        return False
    if any(not _is_number(label.get_text()) for _, label in ticks):
        axis.tick_params(axis="x", labelrotation=90)
        return True
    kept, end = [], float("-inf")
    for (at, label), box in zip(ticks, boxes):
        if box.x0 > end + SPACE:
            kept.append((at, label.get_text()))
            end = box.x1
    axis.set_xticks([at for at, _ in kept], [text for _, text in kept])
    axis.set_xlim(low, high)
    return True


def _is_number(text: str) -> bool:
    with contextlib.suppress(ValueError):
        float(text.replace("\N{MINUS SIGN}", "-"))
        return True
    return False


def _renderer(canvas: Any) -> Any:
    return canvas.canvas.get_renderer()


def png(canvas: Any) -> bytes:
    """A figure as an image."""
    file = io.BytesIO()
    canvas.savefig(file, format="png")
    return file.getvalue()


def save(canvas: Any, folder: Path, name: str) -> list[Path]:
    """``<name>.png`` and ``<name>.pdf`` in ``folder``, equal for equal figures."""
    paths = [folder / f"{name}.{kind}" for kind in ("png", "pdf")]
    for path in paths:
        with atomic_path(path) as partial:
            metadata = {"CreationDate": None} if path.suffix == ".pdf" else None
            canvas.savefig(partial, format=path.suffix[1:], metadata=metadata)
    return paths
