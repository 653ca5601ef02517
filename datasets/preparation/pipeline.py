"""Preparation of a data set: source images are checked, cut into tiles and written side by side.

Cheap checks come first: sizes are read from file headers before any pixel is decoded. The set is
written under a temporary name and renamed at the end. A killed run leaves the temporary folder, and
the same command resumes there without reading finished source images again; an error leaves
nothing.

The work is done by threads: decompression, decoding, counting and writing mostly release Python's
global lock. Two processes were 1.15 times as fast as two threads, but each would hold its own
tables in memory, and would continue for a while after the program is killed.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from configs.schema import IGNORE_INDEX
from datasets.preparation.archives import ArchiveFile, in_threads, strips
from datasets.preparation.classes import ClassFile, Decoded, LabelRepair, MaskDecoder
from datasets.preparation.sensor import SourceRaster, store_rasters
from datasets.preparation.writer import RECORDS, TileSetWriter, Tiling, write_tile
from datasets.tile_set import LABEL_FOLDERS, NamedSplit, Tile, count_classes
from utils.console import Table
from utils.errors import DataError
from utils.files import read_json, write_json

_NUM_LISTED = 20  # unknown colours in an error; a lossy mask has thousands
_MASK_NAMES = {"full": "mask", "eroded": "eroded mask"}
_UNKNOWN_TEXT = (
    "no class of this data set has",
    "get the archives again, or give --unknown-to-ignore",
)
Record = dict[str, Any]  # results for one finished source image, as plain values


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source image with its labels and sensor rasters, as files."""

    id: str
    image: ArchiveFile
    labels: dict[str, ArchiveFile]  # by kind; empty if its labels are hidden
    rasters: dict[str, ArchiveFile] = field(default_factory=dict)  # by name of the sensor
    channels: tuple[int, int, int] | None = None  # bands to read from a file with more than three
    repair: LabelRepair | None = None
    lacks_columns_px: int = 0  # columns missing at the right of its rasters: no data there


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sources of a data set and the settings for preparing them."""

    name: str
    origin: str
    classes: dict[str, ClassFile]  # by label kind; they differ in the ignored colours only
    sources: dict[str, list[Source]]  # by split
    split: NamedSplit
    tiling: Tiling
    prepared_with: dict[str, Any]
    bands: str = "rgb"
    mask_kind: str = "auto"  # see MaskDecoder
    unknown_to_ignore: bool = False
    unknown_text: tuple[str, str] = _UNKNOWN_TEXT  # see _describe_unknown
    ranges: dict[str, tuple[float, float] | None] = field(default_factory=dict)  # of the sensors
    notes: tuple[str, ...] = ()

    def jobs(self) -> list[tuple[str, Source]]:
        """Return every source with its split."""
        return [(split, source) for split, members in self.sources.items() for source in members]

    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(next(iter(self.classes.values())).names)

    def label_kinds(self) -> tuple[str, ...]:
        """Return the kinds of label that any source has."""
        found = {kind for _, source in self.jobs() for kind in source.labels}
        return tuple(kind for kind in LABEL_FOLDERS if kind in found)

    def digest(self) -> str:
        """Return a hash of the settings and of the identity of all files."""
        files = []
        for split, source in self.jobs():
            used = (source.image, *source.labels.values(), *source.rasters.values())
            files.append([split, source.id, *(file.identity() for file in used)])
        plain = json.dumps([self.prepared_with, files], sort_keys=True, default=str)
        return hashlib.sha256(plain.encode()).hexdigest()


def prepare(root: Path, plan: Plan, num_workers: int) -> str:
    """Read every source once, cut it and write the data set; then import its sensors.

    The result depends neither on ``num_workers`` nor on interruptions.

    Returns:
        Lines for the console: numbers, warnings and notes.

    Raises:
        MissingDataError, DataError: a file cannot be read, sizes differ, or masks contain colours
            or values of no class (all of them are counted). Nothing is left at ``root``.
    """
    classes = next(iter(plan.classes.values()))
    _check_sizes(plan, num_workers)
    writer = TileSetWriter(
        root,
        name=plan.name,
        classes=classes.names,
        palette=classes.colors,
        origin=plan.origin,
        prepared_with=plan.prepared_with,
        split_name=plan.split.name,
        split_source=plan.split.source,
        unlabelled=plan.split.unlabelled,
        label_kinds=plan.label_kinds(),
        bands=plan.bands,
        digest=plan.digest(),
    )
    with writer:
        records = _prepare_tiles(writer.folder, plan, num_workers)
        for (split, _), record in zip(plan.jobs(), records, strict=True):
            for entry in record["tiles"]:
                writer.record(split, Tile(**entry["tile"]), entry["pixels"])
        notes = _notes(plan, records, writer.split_sha256())
        _prepare_sensors(writer.folder, plan, records, num_workers)
    return "\n".join([split_table(classes.names, _numbers(plan, records)), *notes])


def _check_sizes(plan: Plan, num_workers: int) -> None:
    """Compare the size of every image with those of its masks and rasters."""
    sources = [source for _, source in plan.jobs()]
    checked = in_threads(_size_faults, sources, "checking", num_workers)
    faults = [fault for found in checked for fault in found]
    if faults:
        what, first = faults[0]
        number = [other for other, _ in faults].count(what)
        raise DataError(
            f"{number} of {len(sources)} images differ in size from their {what} (height x width; "
            f"first: {first}); give them one size"
        )


def _size_faults(source: Source) -> list[tuple[str, str]]:
    """Return a kind of file and a clause for every file that differs in size from the image."""
    height, width = source.image.image_size()
    others = [(_MASK_NAMES[kind], file, 0) for kind, file in source.labels.items()]
    others += [(name, file, source.lacks_columns_px) for name, file in source.rasters.items()]
    faults = []
    for what, file, lacks_px in others:
        rows, columns = file.image_size()
        if rows != height or columns not in (width, width - lacks_px):
            sizes = f"{source.image.name} is {height} x {width} and {file.name} is"
            faults.append((what, f"{sizes} {rows} x {columns}"))
    return faults


def _prepare_tiles(folder: Path, plan: Plan, num_workers: int) -> list[Record]:
    """Write the tiles of every source that is not finished; return the records of all."""
    decoders = {kind: MaskDecoder(file, plan.mask_kind) for kind, file in plan.classes.items()}
    unknown_seen: list[Record] = []

    def work(job: tuple[str, Source]) -> Record:
        split, source = job
        path = folder / RECORDS / "tiles" / f"{source.id}.json"
        if path.is_file():
            return read_json(path)
        decoded = {}
        for kind, file in source.labels.items():
            with file.open_image() as mask:
                decoded[kind] = decoders[kind].decode(mask, file.name, source.repair)
        record = _record(source, decoded)
        if record["unknown"] and not plan.unknown_to_ignore:
            unknown_seen.append(record)
        if not unknown_seen:  # else only the other unknown colours are of interest
            record |= _write_source(folder, plan, split, source, decoded)
            write_json(path, record)
        return record

    records = in_threads(work, plan.jobs(), "preparing", num_workers)
    if unknown_seen:
        raise DataError(_describe_unknown(records, plan.unknown_text))
    return records


def _record(source: Source, decoded: dict[str, Decoded]) -> Record:
    found = decoded.items()
    return {
        "pixels": decoded["full"].pixels.tolist() if "full" in decoded else None,
        "num_label_pixels": sum(mask.target.size for mask in decoded.values()),
        "unknown": {
            kind: {"in": source.labels[kind].name, "counts": mask.unknown}
            for kind, mask in found
            if mask.unknown
        },
        "num_repaired": {kind: mask.num_repaired for kind, mask in found if mask.num_repaired},
    }


def _write_source(
    folder: Path, plan: Plan, split: str, source: Source, decoded: dict[str, Decoded]
) -> Record:
    """Cut and write one source; return its tiles and their class histograms."""
    image, entries = _read_image(source), []
    for tile in plan.tiling.tiles(source.id, split, image.shape[:2]):
        targets = {kind: result.target[tile.slices] for kind, result in decoded.items()}
        write_tile(folder, tile, image[tile.slices], targets)
        pixels = count_classes(targets["full"], plan.num_classes()) if "full" in targets else None
        entries.append({"tile": asdict(tile), "pixels": pixels})
    return {"tiles": entries, "num_pixels": image.shape[0] * image.shape[1]}


def _read_image(source: Source) -> np.ndarray:
    """Read the chosen bands, or what a viewer shows, ``(H, W, 3)`` uint8."""
    name, channels = source.image.name, source.channels
    with source.image.open_image() as image:
        if image.dtype != np.uint8:
            raise DataError(
                f"{name} has more than 8 bits a channel ({image.dtype.name}); convert it to 8-bit "
                "RGB"
            )
        if channels and max(channels) >= image.num_bands:
            raise DataError(
                f"{name} has {image.num_bands} bands instead of four; add the archive of the "
                "images with three"
            )
        pixels, bands = np.empty((*image.size, 3), np.uint8), [c + 1 for c in channels or ()]
        for rows in strips(image.size[0]):
            window = rows, slice(None)
            pixels[rows] = image.read_values(*window, bands) if bands else image.read_rgb(*window)
    return pixels


def _prepare_sensors(folder: Path, plan: Plan, records: list[Record], num_workers: int) -> None:
    """Write the store of every sensor."""
    for name in sorted({name for _, source in plan.jobs() for name in source.rasters}):
        rasters = [
            SourceRaster(
                id=source.id,
                file=source.rasters[name],
                tiles=[Tile(**entry["tile"]) for entry in record["tiles"]],
                lacks_columns_px=source.lacks_columns_px,
            )
            for (_, source), record in zip(plan.jobs(), records, strict=True)
        ]
        limits, records_of_it = plan.ranges.get(name), folder / RECORDS / name
        store_rasters(folder, name, rasters, None, limits, num_workers, records_of_it)


def _describe_unknown(records: list[Record], text: tuple[str, str]) -> str:
    """Return the error for colours and values of no class: all of them, counted.

    Args:
        records: of all sources.
        text: a clause on who does not know the colours, and the remedy.
    """
    unknown = _count_unknown(records)
    total = sum(record["num_label_pixels"] for record in records)
    example: dict[str, str] = {}
    for record in records:
        for found in record["unknown"].values():
            example = dict.fromkeys(found["counts"], found["in"]) | example
    lines = [
        f"\n  {key}: {count:,} pixels ({count / total:.3%}), e.g. in {example[key]}"
        for key, count in unknown.most_common(_NUM_LISTED)
    ]
    if len(unknown) > _NUM_LISTED:
        lines.append(f"\n  and {len(unknown) - _NUM_LISTED} more")
    suffixes = {PurePosixPath(name).suffix.lower() for name in example.values()}
    lossy = "; JPEG blurs colours, masks should be PNG" if suffixes & {".jpg", ".jpeg"} else ""
    return (
        f"the masks hold {len(unknown)} colours or values that {text[0]} "
        f"({unknown.total() / total:.3%} of all pixels{lossy}); {text[1]}:{''.join(lines)}"
    )


def _count_unknown(records: list[Record]) -> Counter[str]:
    unknown: Counter[str] = Counter()
    for record in records:
        for mask in record["unknown"].values():
            unknown.update(mask["counts"])
    return unknown


def _numbers(plan: Plan, records: list[Record]) -> dict[str, dict[str, Any]]:
    """Return the numbers that ``split_table`` formats. Overlaps of tiles count once."""
    groups: dict[str, list[Record]] = {}
    for (split, _), record in zip(plan.jobs(), records, strict=True):
        groups.setdefault(split, []).append(record)
    numbers = {}
    for split, group in groups.items():
        pixels = np.zeros(IGNORE_INDEX + 1, np.int64)
        for record in group:
            pixels += np.array(record["pixels"] or 0)
        numbers[split] = {
            "num_sources": len(group),
            "num_tiles": sum(len(record["tiles"]) for record in group),
            "num_pixels": sum(record["num_pixels"] for record in group),
            "class_pixels": pixels[: plan.num_classes()].tolist(),
            "ignored_pixels": int(pixels[IGNORE_INDEX]),
        }
    return numbers


def split_table(names: Sequence[str], numbers: Mapping[str, Mapping[str, Any]]) -> str:
    """Format a data set, one column per split, and warn of classes without training pixels.

    Args:
        names: of the classes.
        numbers: by split: num_sources, num_tiles, num_pixels, class_pixels (without labels: all 0)
            and ignored_pixels.
    """
    pixels = {split: [*n["class_pixels"], n["ignored_pixels"]] for split, n in numbers.items()}
    areas = [sum(pixels[split]) or n["num_pixels"] for split, n in numbers.items()]
    rows = [
        ["images", *(str(n["num_sources"]) for n in numbers.values())],
        ["tiles", *(str(n["num_tiles"]) for n in numbers.values())],
        ["megapixels", *(f"{area / 1e6:.1f}" for area in areas)],
    ]
    for index, name in enumerate((*names, "ignored")):
        cells = [
            f"{100 * counts[index] / sum(counts):.1f} %" if any(counts) else "hidden"
            for counts in pixels.values()
        ]
        rows.append([name, *cells])
    lines = [str(Table(head=["", *numbers], rows=rows, rules=()))]
    for name, count in zip(names, pixels.get("train", []), strict=False):
        if count == 0:
            lines.append(f"warning: no training pixel is of class '{name}'")
    return "\n".join(lines)


def _notes(plan: Plan, records: list[Record], sha256: str) -> tuple[str, ...]:
    """Return lines on unknown colours, the split, the labels and the repairs."""
    sources = [source for _, source in plan.jobs()]
    kinds = [f"{kind} of {sum(kind in s.labels for s in sources)}" for kind in plan.label_kinds()]
    unknown = _count_unknown(records).most_common()
    lines = [
        *(f"ignored: {count:,} pixels of the unknown {key}" for key, count in unknown),
        f"split '{plan.split.name}', SHA-256 {sha256[:8]}...: {plan.split.source}",
        f"labels of {len(sources)} images: {', '.join(kinds)}",
    ]
    for source, record in zip(sources, records, strict=True):
        for kind, number in record["num_repaired"].items():
            why = source.repair.why if source.repair else ""
            lines.append(f"repaired: {number:,} pixels of {source.id} ({kind}): {why}")
    return (*lines, *plan.notes)
