"""The overview of a training run on one page: curves, class scores, settings, worst tiles."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.console import percent
from utils.files import read_rgb, write_png
from utils.training.checkpoint import Identity
from utils.training.log import MEASURES, SCORE_NAMES, read_rows
from utils.training.state import TrainState
from utils.visualization.charts import Bars, Chart, Curves, Point, run_chart

_MAX_POINTS = 400  # of a curve; longer ones are averaged in groups
_MEAN_COLOR = (110, 116, 128)


def draw_run_page(folder: Path, state: TrainState) -> None:
    """Draw ``pictures/run.png`` from the files of a run, on the main rank.

    The worst tiles are those of the best validation (``pictures/worst.png``).
    """
    if not state.dist.is_main:
        return
    worst = folder / "pictures" / "worst.png"
    chart = run_page(
        read_rows(folder / "metrics.jsonl"),
        state.identity,
        progress=state.progress(),
        worst=read_rgb(worst) if worst.is_file() else None,
    )
    write_png(folder / "pictures" / "run.png", chart.pixels())


def run_page(
    rows: Sequence[dict[str, Any]],
    identity: Identity,
    *,
    progress: dict[str, Any],
    worst: np.ndarray | None = None,
) -> Chart:
    """Compose the page.

    Args:
        rows: of ``metrics.jsonl``.
        identity: of the run.
        progress: its counters and its best score.
        worst: ``(H, W, 3)`` uint8 panel of the worst tiles.
    """
    train = [row for row in rows if row["kind"] == "train"]
    val = [row for row in rows if row["kind"] == "val"]
    losses = [key for key in (train or [{}])[-1] if key not in ("kind", "step", *MEASURES)]
    scores = {name: curve(val, key, 100) for key, name in SCORE_NAMES.items()}
    where, best = identity.selected_on, f"epoch {progress['best_epoch']}"
    note = f"{progress['step']:,} steps, {progress['epoch']} epochs"
    has_best = progress["best_epoch"] > 0  # 0: no validation had a score
    if has_best:
        score = f"{SCORE_NAMES[identity.selected_by]} {percent(progress['best_score'])}"
        note += f"; best {score} on {where} in {best}"
    bars = None
    if val and has_best:
        # The first one with the highest score wrote best.pth.
        row = max(val, key=lambda row: -1.0 if (s := row[identity.selected_by]) is None else s)
        iou = [row[key] for key in (*(f"iou/{name}" for name in identity.classes), "miou")]
        bars = Bars(
            title=f"IoU on {where}, {best}",
            names=[*identity.classes, "mean"],
            values=[math.nan if value is None else value for value in iou],
            colors=[*((red, green, blue) for red, green, blue in identity.palette), _MEAN_COLOR],
        )
    return run_chart(
        title=f"{identity.recipe['name']} on {identity.dataset}",
        note=note,
        curves=[
            Curves(title="loss", y_label="loss", series={key: curve(train, key) for key in losses}),
            Curves(title=f"scores on {where}", y_label="percent", series=scores),
        ],
        bars=bars,
        facts=_facts(identity),
        worst=worst,
        worst_title=f"worst tiles of {where}, {best}",
    )


def curve(rows: Sequence[dict[str, Any]], key: str, factor: float = 1.0) -> list[Point]:
    """Return (step, value) of a key where it is known, averaged in groups if there are many."""
    points = [(row["step"], factor * row[key]) for row in rows if row.get(key) is not None]
    size = -(-len(points) // _MAX_POINTS) or 1
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _facts(identity: Identity) -> dict[str, str]:
    """Collect the settings of the run that readers ask for first."""
    recipe, split = identity.recipe, identity.split
    model, structure, optim = recipe["model"], recipe["structure"], recipe["optim"]
    branches = {"rgb_vit": "RGB", "structure_vit": "structure"}
    vits = [
        f"{name}: {identity.frozen[key]['name']}"
        for key, name in branches.items()
        if key in identity.frozen
    ]
    modalities = ", ".join(structure["modalities"])
    return {
        "split": f"{split['name']} ({split['sha256'][:8]})",
        "labels": f"{recipe['data']['labels']}, scored on {recipe['eval']['labels']}",
        "network": model["size"],
        "frozen ViTs": ", ".join(vits) or "none",
        "structure": structure["control"] + f": {modalities}" * (structure["control"] != "off"),
        "batch": f"{optim['batch_size']} crops of {recipe['data']['crop_size_px']} px",
        "optimizer": f"{optim['optimizer']}, lr {optim['lr']:g}, {optim['schedule']}",
        "schedule": f"{optim['num_epochs']} epochs, {optim['warmup_epochs']} of them warm-up",
        "EMA": f"decay {optim['ema_decay']:g}" if optim["ema_decay"] else "off",
        "seed": str(recipe["run"]["seed"]),
    }
