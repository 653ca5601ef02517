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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from configs.schema import IGNORE_INDEX
from datasets.preparation.archives import ArchiveFile, in_threads
from datasets.preparation.classes import ClassFile, LabelRepair, MaskDecoder
from datasets.preparation.cutting import ImageCutter
from datasets.preparation.labels import LabelReader, PolygonDecoder
from datasets.preparation.sensor import SourceRaster, store_rasters
from datasets.preparation.writer import RECORDS, TileSetWriter, Tiling
from datasets.sources import SourceFacts
from datasets.tile_set import LABEL_FOLDERS, NamedSplit, Tile
from utils.boxes import Box
from utils.console import Table, counted
from utils.errors import DataError
from utils.files import read_json, write_json
from utils.rasters.placement import grid_of
from utils.rasters.rendering import AS_STORED, Rendering
from utils.rasters.vectors import POLYGON_SUFFIX, is_polygons

_NUM_LISTED = 20  # unknown colours in an error; a lossy mask has thousands
_MASK_NAMES = {"full": "mask", "eroded": "eroded mask"}
_UNKNOWN_TEXT = (
    "no class of this data set has",
    "get the archives again, or give --unknown-to-ignore",
)
# Keys of records, and what is said of the images for which they are true.
_NOTES = (
    ("empty", "image has", "images have", "no polygon"),
    ("apart", "image lies", "images lie", "outside the extent of all polygons"),
    (
        "assumes_bands",
        "image has",
        "images have",
        "more than three bands, and neither file nor --bands names red, green and blue: the bands "
        "1,2,3 were taken",
    ),
    (
        "has_busy_alpha",
        "image has",
        "images have",
        "an alpha band that looks like data, e.g. near infrared; if it is, give --alpha-is-data",
    ),
)
Record = dict[str, Any]  # results for one finished source image, as plain values


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source with its labels and sensor rasters, as files: an image, or a block of one."""

    id: str
    image: ArchiveFile
    labels: dict[str, ArchiveFile]  # by kind; empty if its labels are hidden
    rasters: dict[str, ArchiveFile] = field(default_factory=dict)  # by name of the sensor
    image_id: str = ""  # of the image that it is a block of; empty: the source is the image
    box: Box | None = None  # the block; None: all of the image
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
    channels: str = "rgb"
    rendering: Rendering = AS_STORED
    attribute: str = "class"  # of polygons: the property that names the class
    background: str | None = None  # class of pixels that no polygon covers; None: ignored
    mask_kind: str = "auto"  # see MaskDecoder
    unknown_to_ignore: bool = False
    unknown_text: tuple[str, str] = _UNKNOWN_TEXT  # see _describe_unknown
    ranges: dict[str, tuple[float, float] | None] = field(default_factory=dict)  # of the sensors
    notes: tuple[str, ...] = ()

    def jobs(self) -> list[tuple[str, Source]]:
        """Return every source with its split."""
        return [(split, source) for split, members in self.sources.items() for source in members]

    def images(self) -> dict[str, list[Source]]:
        """Return the sources of every image, by the id of the image."""
        found: dict[str, list[Source]] = {}
        for _, source in self.jobs():
            found.setdefault(source.image_id or source.id, []).append(source)
        return found

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
    """Read every image once, cut it and write the data set; then import its sensors.

    The result depends neither on ``num_workers`` nor on interruptions. Images are read by strips
    of rows, so memory grows with their width and the size of tiles only.

    Returns:
        Lines for the console: numbers, warnings and notes.

    Raises:
        MissingDataError, DataError: a file cannot be read, sizes differ, a label does not cover
            its image, or masks contain colours or values of no class (all of them are counted).
            Nothing is left at ``root``.
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
        channels=plan.channels,
        rendering=plan.rendering,
        digest=plan.digest(),
    )
    with writer:
        records = _prepare_images(writer.folder, plan, num_workers)
        found = {source: own for record in records for source, own in record["sources"].items()}
        for split, source in plan.jobs():
            own = found[source.id]
            for entry in own["tiles"]:
                writer.record(split, Tile(**entry["tile"]), entry["pixels"])
            writer.record_source(source.id, SourceFacts.from_plain(own["facts"]))
        unit = "block" if any(source.box for _, source in plan.jobs()) else "image"
        notes = _notes(plan, records, writer.split_sha256(), unit)
        _prepare_sensors(writer.folder, plan, found, num_workers)
    return "\n".join([split_table(classes.names, _numbers(plan, found), f"{unit}s"), *notes])


def _check_sizes(plan: Plan, num_workers: int) -> None:
    """Compare the size of every image with those of its masks and rasters, unless placed."""
    sources = [members[0] for members in plan.images().values()]
    checked = in_threads(_size_faults, sources, "checking", num_workers)
    faults = [fault for found in checked for fault in found]
    if faults:
        what, first = faults[0]
        number = [other for other, _ in faults].count(what)
        raise DataError(
            f"image and {what} differ in size for {number} of {counted(len(sources), 'image')} "
            f"(height x width; first: {first}); give them one size, or place both on the earth"
        )


def _size_faults(source: Source) -> list[tuple[str, str]]:
    """Return a kind of file and a clause for every file that differs in size from the image."""
    height, width = source.image.image_size()
    others = [(_MASK_NAMES[kind], file, 0) for kind, file in source.labels.items()]
    others += [(name, file, source.lacks_columns_px) for name, file in source.rasters.items()]
    faults = []
    for what, file, lacks_px in others:
        if is_polygons(file.name):
            continue
        rows, columns = file.image_size()
        if rows == height and columns in (width, width - lacks_px):
            continue
        size, other_size = (height, width), (rows, columns)
        if source.image.archive is None and file.archive is None:  # others need to be extracted
            with source.image.open_image() as image, file.open_image() as other:
                size, other_size = image.size, other.size
                if all(grid_of(each.size, each.placement) for each in (image, other)):
                    continue  # they are put together by their places
        if size != other_size:
            first, second = f"{size[0]} x {size[1]}", f"{other_size[0]} x {other_size[1]}"
            faults.append((what, f"{source.image.name} is {first} and {file.name} is {second}"))
    return faults


def _prepare_images(folder: Path, plan: Plan, num_workers: int) -> list[Record]:
    """Write the tiles of every image that is not finished; return the records of all."""
    readers = {
        kind: LabelReader(
            masks=MaskDecoder(file, plan.mask_kind),
            polygons=PolygonDecoder(file, plan.background),
            attribute=plan.attribute,
        )
        for kind, file in plan.classes.items()
    }
    split_of = {source.id: split for split, source in plan.jobs()}
    unknown_seen: list[Record] = []

    def goes_on(has_unknown: bool) -> bool:  # else only the other unknown labels are of interest
        return not unknown_seen and (plan.unknown_to_ignore or not has_unknown)

    def work(item: tuple[str, list[Source]]) -> Record:
        image_id, sources = item
        path = folder / RECORDS / "tiles" / f"{image_id}.json"
        if path.is_file():
            return read_json(path)
        first = sources[0]
        with ExitStack() as stack:
            image = stack.enter_context(first.image.open_image(plan.rendering))
            labels = {
                kind: stack.enter_context(
                    readers[kind].open(file, image, first.image.name, first.repair)
                )
                for kind, file in first.labels.items()
            }
            boxes = [source.box or Box(0, 0, *image.size) for source in sources]
            parts = [
                (source.id, box, plan.tiling.tiles(source.id, split_of[source.id], box))
                for source, box in zip(sources, boxes, strict=True)
            ]
            cutter = ImageCutter(folder, image, labels, parts, plan.num_classes(), goes_on)
            record = cutter.cut(image_id) | {"image": first.image.name}
        if record["unknown"] and not plan.unknown_to_ignore:
            unknown_seen.append(record)
        if not unknown_seen:
            write_json(path, record)
        return record

    records = in_threads(work, plan.images().items(), "preparing", num_workers)
    if unknown_seen:
        raise DataError(_describe_unknown(records, plan.unknown_text))
    _check_polygons(plan, records)
    return records


def _check_polygons(plan: Plan, records: list[Record]) -> None:
    """Refuse files without any polygon, and one whose images all lie outside its polygons."""
    if all(record["empty"] for record in records):
        raise DataError(f"the labels hold no polygon (first: {records[0]['empty'][0]}); draw some")
    num_images = Counter(
        file.name for members in plan.images().values() for file in members[0].labels.values()
    )
    apart: dict[str, list[str]] = {}
    for record in records:
        for name, clause in record["apart"].items():
            apart.setdefault(name, []).append(clause)
    for name, clauses in apart.items():
        if len(clauses) == num_images[name]:
            raise DataError(
                f"{clauses[0]}; give the polygons of this image, or correct their coordinate "
                "reference system"
            )


def _prepare_sensors(
    folder: Path, plan: Plan, found: Mapping[str, Record], num_workers: int
) -> None:
    """Write the store of every sensor; ``found`` has the record of every source."""
    for name in sorted({name for _, source in plan.jobs() for name in source.rasters}):
        rasters = [
            SourceRaster(
                id=source.id,
                file=source.rasters[name],
                tiles=[Tile(**entry["tile"]) for entry in found[source.id]["tiles"]],
                facts=SourceFacts.from_plain(found[source.id]["facts"]),
                lacks_columns_px=source.lacks_columns_px,
            )
            for _, source in plan.jobs()
        ]
        limits, records_of_it = plan.ranges.get(name), folder / RECORDS / name
        store_rasters(folder, name, rasters, limits, num_workers, records=records_of_it)


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
        f"\n  {key}: {counted(count, 'pixel')} ({count / total:.3%}), e.g. in {example[key]}"
        for key, count in unknown.most_common(_NUM_LISTED)
    ]
    if len(unknown) > _NUM_LISTED:
        lines.append(f"\n  and {len(unknown) - _NUM_LISTED} more")
    hint = next((f"; {record['hint']}" for record in records if record["hint"]), "")
    suffixes = {PurePosixPath(name).suffix.lower() for name in example.values()}
    lossy = "; JPEG blurs colours, masks should be PNG" if suffixes & {".jpg", ".jpeg"} else ""
    found = f"the masks hold {counted(len(unknown), 'colour or value', 'colours or values')}"
    if suffixes == {POLYGON_SUFFIX}:
        found = f"the polygons hold {counted(len(unknown), 'value')}"
    return (
        f"{found} that {text[0]} ({unknown.total() / total:.3%} of all pixels{lossy}{hint}); "
        f"{text[1]}:{''.join(lines)}"
    )


def _count_unknown(records: list[Record]) -> Counter[str]:
    unknown: Counter[str] = Counter()
    for record in records:
        for mask in record["unknown"].values():
            unknown.update(mask["counts"])
    return unknown


def _numbers(plan: Plan, found: Mapping[str, Record]) -> dict[str, dict[str, Any]]:
    """Return the numbers that ``split_table`` formats. Overlaps of tiles count once."""
    numbers = {}
    for split, sources in plan.sources.items():
        group = [found[source.id] for source in sources]
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


def split_table(
    names: Sequence[str], numbers: Mapping[str, Mapping[str, Any]], unit: str = "images"
) -> str:
    """Format a data set, one column per split, and warn of classes without training pixels.

    Args:
        names: of the classes.
        numbers: by split: num_sources, num_tiles, num_pixels, class_pixels (without labels: all 0)
            and ignored_pixels; no_data_pixels if they are known.
        unit: plural of what the sources are.
    """
    pixels = {split: [*n["class_pixels"], n["ignored_pixels"]] for split, n in numbers.items()}
    areas = [sum(pixels[split]) or n["num_pixels"] for split, n in numbers.items()]
    rows = [
        [unit, *(str(n["num_sources"]) for n in numbers.values())],
        ["tiles", *(str(n["num_tiles"]) for n in numbers.values())],
        ["megapixels", *(f"{area / 1e6:.1f}" for area in areas)],
    ]
    for index, name in enumerate((*names, "ignored")):
        cells = [
            f"{100 * counts[index] / sum(counts):.1f} %" if any(counts) else "hidden"
            for counts in pixels.values()
        ]
        rows.append([name, *cells])
    no_data = [(n.get("no_data_pixels", 0), n["num_pixels"]) for n in numbers.values()]
    if any(count for count, _ in no_data):
        rows.append(
            ["no data", *(f"{100 * count / max(total, 1):.1f} %" for count, total in no_data)]
        )
    lines = [str(Table(head=["", *numbers], rows=rows, rules=()))]
    for name, count in zip(names, pixels.get("train", []), strict=False):
        if count == 0:
            lines.append(f"warning: no training pixel is of class '{name}'")
    return "\n".join(lines)


def _notes(plan: Plan, records: list[Record], sha256: str, unit: str) -> tuple[str, ...]:
    """Return lines on the split, the labels, and all that was ignored, assumed or repaired."""
    sources = [source for _, source in plan.jobs()]
    kinds = [f"{kind} of {sum(kind in s.labels for s in sources)}" for kind in plan.label_kinds()]
    unknown = _count_unknown(records).most_common()
    lines = [
        *(f"ignored: {counted(count, 'pixel')} of the unknown {key}" for key, count in unknown),
        *_reading_notes(records),
        f"split '{plan.split.name}', SHA-256 {sha256[:8]}...: {plan.split.source}",
        f"labels of {counted(len(sources), unit)}: {', '.join(kinds) or 'none'}",
    ]
    for members, record in zip(plan.images().values(), records, strict=True):
        for kind, number in record["num_repaired"].items():
            repair = members[0].repair
            why = repair.why if repair else ""
            pixels = counted(number, "pixel")
            lines.append(f"repaired: {pixels} of {members[0].id} ({kind}): {why}")
    return (*lines, *plan.notes)


def _reading_notes(records: list[Record]) -> Iterator[str]:
    """Yield lines on pixels without data, and on assumptions about the files."""
    own = [each for record in records for each in record["sources"].values()]
    total = sum(each["num_pixels"] for each in own)
    if num := sum(each["num_no_data"] for each in own):
        images = sum(any(e["num_no_data"] for e in r["sources"].values()) for r in records)
        share = f"{counted(num, 'pixel')} ({num / total:.1%})"
        yield f"no data: {share} of {counted(images, 'image')}, which are ignored"
    if num := sum(each["num_empty"] for each in own):
        yield f"left out: {counted(num, 'tile')} without a pixel that holds data"
    num_labels = sum(record["num_label_pixels"] for record in records)
    counts = {
        "num_label_no_data": "no data in the labels: {} ({:.1%}), which are ignored",
        "num_outside": "outside all polygons: {} ({:.1%}), which are ignored; --background names a "
        "class for them",
        "num_tagged": "note: the class file names the no-data value of label files, and decides on "
        "{} ({:.1%})",
    }
    for key, text in counts.items():
        if num := sum(record[key] for record in records):
            yield text.format(counted(num, "pixel"), num / num_labels)
    if num := sum(record["num_warped"] > 0 for record in records):
        images_text = counted(len(records), "image")
        yield f"labels of {num} of {images_text} were put on the grid of their image"
    for key, one, several, text in _NOTES:
        if found := [record["image"] for record in records if record[key]]:
            yield f"note: {counted(len(found), one, several)} {text} (first: {found[0]})"
