"""The report of an evaluation: a table for the console, JSON for programs, a picture."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from utils.charts import confusion_picture
from utils.files import write_json, write_png, write_text
from utils.metrics import Scores
from utils.metrics import scores as compute_scores

_COLUMNS = ("IoU", "F1", "precision", "recall", "share")
_GAP = "  "


def score_table(scores: Scores, classes: Sequence[str]) -> str:
    """Lay out scores as an aligned table, in percent, without a final newline.

    ``share`` is the class's part of the counted target pixels. ``-`` stands for a class that
    occurs neither in the target nor in the prediction; the means leave it out. Only ASCII is
    added to the class names, so any console can print it.

    Raises:
        ValueError: the number of class names is not that of the scores.
    """
    _check_count("class names", classes, len(scores.iou))
    num_pixels = sum(scores.support)
    shares = [
        math.nan if math.isnan(iou) else support / num_pixels
        for iou, support in zip(scores.iou, scores.support, strict=True)
    ]
    columns = (scores.iou, scores.f1, scores.precision, scores.recall, shares)
    rows = zip(classes, *columns, strict=True)
    name_width = max(len(name) for name in (*classes, "class"))
    value_width = max(len(column) for column in _COLUMNS)

    def line(name: str, cells: Sequence[str]) -> str:
        """One line of the table, names to the left, numbers to the right."""
        return _GAP.join([name.ljust(name_width), *(cell.rjust(value_width) for cell in cells)])

    means = (scores.miou, scores.mf1, scores.mprecision, scores.mrecall)
    head = line("class", _COLUMNS)
    rule = "-" * len(head)
    return "\n".join(
        [
            head,
            rule,
            *(line(name, [_percent(value) for value in values]) for name, *values in rows),
            rule,
            line("mean", [_percent(value) for value in means]),
            "",
            f"mIoU {_percent(scores.miou)}   mF1 {_percent(scores.mf1)}   "
            f"OA {_percent(scores.oa)}   (%, over {num_pixels:,} pixels)",
        ]
    )


def write_report(
    folder: Path,
    *,
    confusion: Tensor,
    classes: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
    header: dict[str, Any],
) -> Scores:
    """Write ``report.txt``, ``confusion.png`` and ``report.json`` into a folder.

    Existing reports are replaced, each file atomically and ``report.json`` last. Scores in the
    JSON are fractions in 0..1; a number that is not finite becomes null.

    Args:
        folder: where to write; made if it is missing.
        confusion: ``(C, C)`` pixel counts; rows are target classes, columns predicted ones.
        classes: C class names.
        palette: C colours, RGB in 0..255.
        header: what was evaluated and how (checkpoint, split, window ...), in display order;
            plain values, lists and dicts of them, paths.

    Returns:
        The scores of the confusion matrix.

    Raises:
        ValueError: the number of names or colours is not that of the matrix.
    """
    result = compute_scores(confusion)
    _check_count("class names", classes, len(result.iou))
    _check_count("palette colours", palette, len(result.iou))
    counts = confusion.detach().cpu()
    write_text(folder / "report.txt", _text(result, classes, header))
    write_png(folder / "confusion.png", confusion_picture(counts.numpy(), classes, palette))
    write_json(
        folder / "report.json",
        _plain(
            {
                "header": header,
                "miou": result.miou,
                "mf1": result.mf1,
                "mprecision": result.mprecision,
                "mrecall": result.mrecall,
                "oa": result.oa,
                "num_pixels": sum(result.support),
                "classes": _class_entries(result, classes, palette),
                "confusion_axes": ["target", "prediction"],
                "confusion": counts.long().tolist(),
            }
        ),
    )
    return result


def _class_entries(
    scores: Scores, classes: Sequence[str], palette: Sequence[tuple[int, int, int]]
) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "color": list(palette[index]),
            "iou": scores.iou[index],
            "f1": scores.f1[index],
            "precision": scores.precision[index],
            "recall": scores.recall[index],
            "num_pixels": scores.support[index],
        }
        for index, name in enumerate(classes)
    ]


def _text(scores: Scores, classes: Sequence[str], header: dict[str, Any]) -> str:
    key_width = max((len(key) for key in header), default=0)
    lines = [f"{key.ljust(key_width)}{_GAP}{value}" for key, value in header.items()]
    if lines:
        lines.append("")
    return "\n".join([*lines, score_table(scores, classes)]) + "\n"


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def _plain(value: Any) -> Any:
    """Make a value fit for JSON: no nan or infinity, no tuples, unknown objects as text."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    return str(value)


def _check_count(what: str, entries: Sequence[Any], num_classes: int) -> None:
    if len(entries) != num_classes:
        raise ValueError(f"{len(entries)} {what} for {num_classes} classes; they must agree")
