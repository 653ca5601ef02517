"""What ``prepare.py check`` shows: a table for the console, JSON for programs, one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.preparation.check_tiles import StoreRecord, TileFacts
from datasets.structure_maps import map_path, read_map
from datasets.tile_set import TileSet
from utils.errors import UserError
from utils.files import write_json, write_png
from utils.console import table
from utils.visualization.charts import legend
from utils.visualization.colors import colorize, colorize_segments, colorize_values
from utils.visualization.panels import Cell, contact_sheet
from utils.visualization.typesetting import MARGIN_PX

_NUM_SHOWN = 3  # findings of a kind on the console
_SAMPLES_PER_SPLIT = 3
_CELL_PX = 256


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write ``check.json``."""
    write_json(folder / "check.json", summary)


def report_table(summary: dict[str, Any]) -> str:
    """Lay out what was found: numbers first, then warnings, then faults."""
    split, splits = summary["split"], summary["splits"]
    num_tiles = sum(split["num_tiles"] for split in splits.values())
    head = (
        f"{summary['data']}: {num_tiles:,} tiles in splits, {len(summary['classes'])} classes, "
        f"bands {summary['bands']}, checked in {summary['time_s']} s\n"
        f"split '{split['name']}', SHA-256 {split['sha256'][:16]}..."
    )
    blocks = [head, _split_table(summary["classes"], splits), _weight_lines(splits)]
    blocks += [_store_table(summary["stores"]), _findings("warning", summary["warnings"])]
    blocks.append(_findings("fault", summary["faults"]))
    return "\n\n".join(block for block in blocks if block)


def _split_table(classes: Sequence[str], splits: dict[str, Any]) -> str:
    """Splits across; numbers, shares of the classes and their weights down."""
    totals = {
        name: sum(split["class_pixels"]) + split["ignored_pixels"] for name, split in splits.items()
    }

    def numbers(title: str, key: str) -> list[str]:
        return [title, *(f"{split[key]:,}" for split in splits.values())]

    def shares(title: str, pixels: list[int]) -> list[str]:
        pairs = zip(pixels, totals.items(), strict=True)
        return [title, *(_share(count, total, splits[name]) for count, (name, total) in pairs)]

    def weights(title: str, index: int) -> list[str]:
        each = [split["class_weights"] for split in splits.values()]
        return [title, *("-" if known is None else f"{known[index]:.4f}" for known in each)]

    rows = [["", *splits], numbers("images", "num_sources"), numbers("tiles", "num_tiles")]
    rows.append(["megapixels", *(f"{split['num_pixels'] / 1e6:,.1f}" for split in splits.values())])
    rows.append(["share of the pixels", *("" for _ in splits)])
    for index, name in enumerate(classes):
        rows.append(shares(f"  {name}", [s["class_pixels"][index] for s in splits.values()]))
    rows.append(shares("  ignored", [s["ignored_pixels"] for s in splits.values()]))
    rows.append(["class weights", *("" for _ in splits)])
    rows += [weights(f"  {name}", index) for index, name in enumerate(classes)]
    return table(rows[0], rows[1:])


def _share(count: int, total: int, split: dict[str, Any]) -> str:
    if not split["is_labelled"]:
        return "hidden"
    return f"{count / total:.2%}" if total else "-"


def _weight_lines(splits: dict[str, Any]) -> str:
    lines = [
        "class weights = median frequency / frequency; the frequency of a class is its pixels",
        "divided by the labelled pixels of the tiles that show it. For the recipe (of train):",
    ]
    known = splits.get("train", {}).get("class_weights")
    if known is None:
        return ""
    return "\n".join([*lines, f"  'optim.class_weights=[{','.join(f'{w:g}' for w in known)}]'"])


def _store_table(stores: dict[str, Any]) -> str:
    """One store a line."""
    if not stores:
        return "no structure maps"
    rows = [["structure", "kind", "maps", "without data or segment", "with one level or id"]]
    for name, store in stores.items():
        title = name if name == store["generator"] else f"{name} ({store['generator']})"
        numbers = [
            f"{store['num_maps']:,}",
            f"{store['empty_share']:.2%}",
            f"{store['num_flat']:,}",
        ]
        rows.append([title, store["kind"], *numbers])
    return table(rows[0], rows[1:])


def _findings(title: str, findings: list[dict[str, str]]) -> str:
    """Findings by kind; the first few of each in full."""
    by_kind: dict[str, list[str]] = {}
    for finding in findings:
        by_kind.setdefault(finding["kind"], []).append(finding["text"])
    lines = []
    for kind, texts in by_kind.items():
        lines.append(f"{title}: {kind} ({len(texts)})")
        lines += [f"  {text}" for text in texts[:_NUM_SHOWN]]
        if len(texts) > _NUM_SHOWN:
            lines.append(f"  and {len(texts) - _NUM_SHOWN} more, see check.json")
    return "\n".join(lines)


def draw_samples(
    folder: Path,
    tile_set: TileSet,
    splits: Sequence[str],
    stores: Sequence[StoreRecord],
    tiles: dict[str, TileFacts],
) -> None:
    """Draw ``check.png``: a few tiles of every split, a column for each member; and the legend.

    What cannot be read stays empty.

    Args:
        folder: where to write it.
        tile_set: the data set.
        splits: its splits, in the order to show.
        stores: its finished stores.
        tiles: what was found in each tile.
    """
    chosen = []
    for split in splits:
        readable = [tile_id for tile_id in tile_set.splits[split] if tiles[tile_id].image_sha256]
        step = max(1, -(-len(readable) // _SAMPLES_PER_SPLIT))
        chosen += [(split, tile_id) for tile_id in readable[::step]]
    if not chosen:
        return
    rows = [_row(tile_set, stores, tile_id) for _, tile_id in chosen]
    kinds = ["target" if kind == "full" else kind for kind in tile_set.label_kinds]
    titles = ["image", *kinds, *(store.name for store in stores)]
    names = [f"{split}: {tile_id}" for split, tile_id in chosen]
    sheet = contact_sheet(rows, titles, names, _CELL_PX)
    strip = legend(
        [*tile_set.classes, "ignored"],
        [*tile_set.palette, (0, 0, 0)],
        sheet.shape[1] - 2 * MARGIN_PX,
    )
    frame = ((0, MARGIN_PX), (MARGIN_PX, MARGIN_PX), (0, 0))
    strip = np.pad(strip, frame, constant_values=255)
    write_png(folder / "check.png", np.concatenate([sheet, strip]))


def _row(tile_set: TileSet, stores: Sequence[StoreRecord], tile_id: str) -> list[Cell | None]:
    cells: list[Cell | None] = [Cell(picture=_shrink(tile_set.read_image(tile_id)))]
    for kind in tile_set.label_kinds:
        try:
            target = _shrink(tile_set.read_target(tile_id, kind))
            cells.append(Cell(picture=colorize(target, tile_set.palette), smooth=False))
        except UserError:
            cells.append(None)
    for store in stores:
        draw = colorize_values if store.holds_values else colorize_segments
        try:
            levels = _shrink(read_map(map_path(store.folder, tile_id)))
            cells.append(Cell(picture=draw(levels), smooth=False))
        except UserError:
            cells.append(None)
    return cells


def _shrink(array: np.ndarray) -> np.ndarray:
    """Every n-th pixel of what is much larger than its cell."""
    step = max(1, max(array.shape[:2]) // (2 * _CELL_PX))
    return array[::step, ::step]
