"""A training run on one page: its curves, the classes of its best epoch, its worst tiles."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.files import read_rgb, write_png
from utils.training.checkpoint import Identity
from utils.training.log import MEASURES, SCORE_NAMES, read_rows
from utils.training.state import TrainState
from utils.visualization.charts import bars
from utils.visualization.curves import Point, curves
from utils.visualization.typesetting import (
    FAINT_INK,
    GAP_PX,
    MARGIN_PX,
    TITLE_PX,
    Color,
    blank,
    draw_text,
    line_height_px,
    shorten,
    text_width_px,
)

_CHART_PX = (440, 800)  # height and width of each of two charts, side by side
_BARS_WIDTH_PX = 440  # beside the worst tiles
_MAX_POINTS = 400  # of a line; more are averaged, as the eye would


def draw_run_page(folder: Path, state: TrainState) -> None:
    """Draw ``pictures/run.png`` from the files of a run, on the main rank.

    The worst tiles are those of the best validation (``pictures/worst.png``).
    """
    if not state.dist.is_main:
        return
    worst = folder / "pictures" / "worst.png"
    page = run_page(
        read_rows(folder / "metrics.jsonl"),
        state.identity,
        progress=state.progress(),
        worst=read_rgb(worst) if worst.is_file() else None,
    )
    write_png(folder / "pictures" / "run.png", page)


def run_page(
    rows: Sequence[dict[str, Any]],
    identity: Identity,
    *,
    progress: dict[str, Any],
    worst: np.ndarray | None = None,
) -> np.ndarray:
    """Compose the page.

    Args:
        rows: of ``metrics.jsonl``.
        identity: of the run.
        progress: its counters and its best score.
        worst: panel of the worst tiles, ``(H, W, 3)`` uint8; left out if there is none.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    train = [row for row in rows if row["kind"] == "train"]
    val = [row for row in rows if row["kind"] == "val"]
    height_px, width_px = _CHART_PX
    size = {"height_px": height_px, "width_px": width_px}
    losses = [key for key in (train or [{}])[-1] if key not in ("kind", "step", *MEASURES)]
    names = {name: key for key, name in SCORE_NAMES.items()}
    where = identity.selected_on
    upper = [
        curves({key: _line(train, key) for key in losses}, "loss", "step", "loss", **size),
        curves(
            {name: _line(val, key, 100) for name, key in names.items()},
            f"scores on {where}",
            "step",
            "percent",
            **size,
        ),
    ]
    best = f"epoch {progress['best_epoch']}"
    lower = []
    if val and progress["best_epoch"]:
        drawn = _class_bars(_best(val, identity.selected_by), identity, f"IoU on {where} in {best}")
        lower.append(_below([Image.fromarray(drawn), _facts(identity)]))
    if worst is not None:
        lower.append(_headed(worst, f"worst tiles of {where} in {best}"))
    summary = f"{progress['step']:,} steps, {progress['epoch']} epochs"
    if progress["best_epoch"]:  # 0: no validation had a score
        score = f"{SCORE_NAMES[identity.selected_by]} {100 * progress['best_score']:.2f}"
        summary += f"; best {score} on {where} in {best}"
    parts = [_beside(upper), *([_beside(lower)] if lower else [])]
    page_width_px = max(part.width for part in parts)
    head = _heading(f"{identity.recipe['name']} on {identity.dataset}", summary, page_width_px)
    return _below([head, *parts])


def _line(rows: Sequence[dict[str, Any]], key: str, factor: float = 1.0) -> list[Point]:
    """The values of a key over the steps, averaged where they are more than can be told apart."""
    points = [(row["step"], factor * row[key]) for row in rows if row.get(key) is not None]
    size = -(-len(points) // _MAX_POINTS) or 1
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _best(rows: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    """The first validation with the highest score: where ``best.pth`` comes from."""
    return max(rows, key=lambda row: -1.0 if row[key] is None else row[key])


def _class_bars(row: dict[str, Any], identity: Identity, title: str) -> np.ndarray:
    """Bars of the classes and of their mean."""
    values = [row[key] for key in (*(f"iou/{name}" for name in identity.classes), "miou")]
    palette: list[Color] = [(red, green, blue) for red, green, blue in identity.palette]
    return bars(
        [float("nan") if value is None else value for value in values],
        [*identity.classes, "mean"],
        [*palette, FAINT_INK],
        title,
        width_px=_BARS_WIDTH_PX,
    )


def _facts(identity: Identity) -> Image.Image:
    """What the run was made with, below the bars, in words."""
    recipe, split = identity.recipe, identity.split
    model, structure, optim = recipe["model"], recipe["structure"], recipe["optim"]
    vits = [model[branch]["name"] for branch in ("rgb_vit", "structure_vit")]
    modalities = ", ".join(structure["modalities"])
    facts = {
        "split": f"{split['name']} ({split['sha256'][:8]})",
        "labels": f"{recipe['data']['labels']}, scored on {recipe['eval']['labels']}",
        "network": model["size"],
        "frozen ViTs": ", ".join(vits),
        "structure": structure["control"] + f": {modalities}" * (structure["control"] != "off"),
        "batch": f"{optim['batch_size']} crops of {recipe['data']['crop_size_px']} px",
        "optimiser": f"{optim['optimizer']}, lr {optim['lr']:g}, {optim['schedule']}",
        "length": f"{optim['num_epochs']} epochs, {optim['warmup_epochs']} of them warm-up",
        "average": f"decay {optim['ema_decay']:g}" if optim["ema_decay"] else "none",
        "seed": str(recipe["run"]["seed"]),
    }
    names_px = max(map(text_width_px, facts)) + 2 * GAP_PX
    pitch_px = line_height_px() + GAP_PX // 2
    block = blank(pitch_px * len(facts) + MARGIN_PX, _BARS_WIDTH_PX)
    left_px = MARGIN_PX + names_px
    for index, (name, text) in enumerate(facts.items()):
        draw_text(block, MARGIN_PX, index * pitch_px, name, color=FAINT_INK)
        text = shorten(text, _BARS_WIDTH_PX - MARGIN_PX - left_px)
        draw_text(block, left_px, index * pitch_px, text)
    return block


def _heading(title: str, summary: str, width_px: int) -> Image.Image:
    """Two lines of text."""
    size_px, inner_px = TITLE_PX + 6, width_px - 2 * MARGIN_PX
    height_px = MARGIN_PX + line_height_px(size_px) + GAP_PX // 2 + line_height_px()
    head = blank(height_px, width_px)
    draw_text(head, MARGIN_PX, MARGIN_PX, shorten(title, inner_px, size_px), size_px=size_px)
    below_px = MARGIN_PX + line_height_px(size_px) + GAP_PX // 2
    draw_text(head, MARGIN_PX, below_px, shorten(summary, inner_px), color=FAINT_INK)
    return head


def _headed(picture: np.ndarray, title: str) -> np.ndarray:
    """A picture with a heading, set like those of charts."""
    height_px, width_px = MARGIN_PX + line_height_px(TITLE_PX), picture.shape[1]
    head = blank(height_px, width_px)
    text = shorten(title, width_px - 2 * MARGIN_PX, TITLE_PX)
    draw_text(head, MARGIN_PX, MARGIN_PX, text, size_px=TITLE_PX)
    return np.array(_below([head, Image.fromarray(picture)]))


def _beside(pictures: Sequence[np.ndarray]) -> Image.Image:
    """Pictures from left to right, their upper edges in line."""
    images = [Image.fromarray(picture) for picture in pictures]
    page = blank(max(image.height for image in images), sum(image.width for image in images))
    left_px = 0
    for image in images:
        page.paste(image, (left_px, 0))
        left_px += image.width
    return page


def _below(pictures: Sequence[Image.Image]) -> np.ndarray:
    """Pictures one below the other, their left edges in line."""
    page = blank(sum(image.height for image in pictures), max(image.width for image in pictures))
    top_px = 0
    for image in pictures:
        page.paste(image, (0, top_px))
        top_px += image.height
    return np.array(page)
