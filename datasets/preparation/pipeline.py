"""Published archives or folders of any kind -> a prepared data set, several images at a time.

What is cheap to find out is found out first: sizes come from the files' headers, before anything
is decoded. A run that is killed leaves its folder under a temporary name; the same command goes on
there, and a source image that is done is not read again. An error leaves nothing.

Threads do the work. Unpacking, decoding, counting and writing mostly run outside Python's lock: two
processes were 1.15 times as fast as two threads, but would each hold their own tables, and go on
for a while when the program is killed.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from configs.schema import IGNORE_INDEX
from datasets.preparation.classes import ClassFile, Decoded, LabelRepair, MaskDecoder
from datasets.preparation.members import Member
from datasets.preparation.sensor import SourceRaster, store_rasters
from datasets.preparation.tiling import Tiling
from datasets.preparation.writer import RECORDS, TileSetWriter, write_tile
from datasets.tile_set import LABEL_FOLDERS, NamedSplit, Tile, count_classes
from utils.errors import DataError
from utils.files import read_json, strips, write_json
from utils.threads import read_ahead

_NUM_LISTED = 20  # unknown colours in an error; a lossy mask has thousands
Record = dict[str, Any]  # what is known of a source image once it is done: plain values


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was prepared. Pixels are those of the source images: overlaps count once."""

    num_sources: dict[str, int]  # by split
    num_tiles: dict[str, int]  # by split
    num_pixels: dict[str, np.ndarray]  # by split: (num_classes + 1,) int64, the last is ignored
    unknown: Counter[str]  # pixels of every unknown colour or value, turned to ignore
    num_hidden: dict[str, int] = field(default_factory=dict)  # pixels of splits without labels
    notes: tuple[str, ...] = ()  # lines that the table has no room for

    def table(self, names: tuple[str, ...]) -> str:
        """Lay it out with the splits across, numbers and class shares down; notes below."""
        splits = list(self.num_sources)
        labelled = {split: int(self.num_pixels[split].sum()) for split in splits}
        totals = {split: labelled[split] or self.num_hidden.get(split, 0) for split in splits}
        rows = [
            ("", splits),
            ("images", [str(self.num_sources[split]) for split in splits]),
            ("tiles", [str(self.num_tiles[split]) for split in splits]),
            ("megapixels", [f"{totals[split] / 1e6:.1f}" for split in splits]),
        ]
        for index, name in enumerate((*names, "ignored")):
            cells = [
                f"{100 * self.num_pixels[split][index] / labelled[split]:.1f} %"
                if labelled[split]
                else "hidden"
                for split in splits
            ]
            rows.append((name, cells))
        width = max(len(name) for name, _ in rows)
        lines = [
            name.ljust(width) + "".join(f"{cell:>12}" for cell in cells) for name, cells in rows
        ]
        for index, name in enumerate(names):
            if "train" in splits and self.num_pixels["train"][index] == 0:
                lines.append(f"warning: no training pixel is of class '{name}'")
        for key, count in self.unknown.most_common():
            lines.append(f"ignored: {count:,} pixels of the unknown {key}")
        return "\n".join([*lines, *self.notes])


def summarize(
    *, splits: list[str], records: list[Record], num_classes: int, notes: tuple[str, ...]
) -> Summary:
    """Sum up the records of all sources, each in the split of the same place."""
    num_tiles: Counter[str] = Counter()
    num_hidden: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    pixels = {split: np.zeros(IGNORE_INDEX + 1, np.int64) for split in splits}
    for split, record in zip(splits, records, strict=True):
        num_tiles[split] += len(record["tiles"])
        if record["pixels"] is None:
            num_hidden[split] += record["num_pixels"]
        else:
            pixels[split] += np.array(record["pixels"])
        for found in record["unknown"].values():
            unknown.update(found["counts"])
    kept = [*range(num_classes), IGNORE_INDEX]
    return Summary(
        num_sources=dict(Counter(splits)),
        num_tiles=dict(num_tiles),
        num_pixels={split: counts[kept] for split, counts in pixels.items()},
        unknown=unknown,
        num_hidden=dict(num_hidden),
        notes=notes,
    )


def describe_unknown(records: list[Record], text: tuple[str, str]) -> str:
    """The error for colours and values that no class has: all of them, counted.

    Args:
        records: of all sources.
        text: who does not know these colours, and what to do.
    """
    unknown: Counter[str] = Counter()
    example: dict[str, str] = {}
    total = 0
    for record in records:
        total += record["num_label_pixels"]
        for found in record["unknown"].values():
            unknown.update(found["counts"])
            for key in found["counts"]:
                example.setdefault(key, found["in"])
    lines = "".join(
        f"\n  {key}: {count:,} pixels ({count / total:.3%}), e.g. in {example[key]}"
        for key, count in unknown.most_common(_NUM_LISTED)
    )
    more = len(unknown) - _NUM_LISTED
    lines += f"\n  and {more} more" if more > 0 else ""
    suffixes = {PurePosixPath(name).suffix.lower() for name in example.values()}
    lossy = "; JPEG blurs colours, masks should be PNG" if suffixes & {".jpg", ".jpeg"} else ""
    return (
        f"the masks hold {len(unknown)} colours or values that {text[0]} "
        f"({unknown.total() / total:.3%} of all pixels{lossy}); {text[1]}:{lines}"
    )


_UNKNOWN_TEXT = (
    "no class of this data set has",
    "get the archives again, or give --unknown-to-ignore",
)
_EXTRA_SAMPLES = 338  # TIFF tag: what a fourth band is
_MASK_NAMES = {"full": "mask", "eroded": "eroded mask"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source image and all that belongs to it."""

    id: str
    image: Member
    labels: dict[str, Member]  # by kind; empty if its labels are hidden
    rasters: dict[str, Member] = field(default_factory=dict)  # by name of the sensor
    channels: tuple[int, int, int] | None = None  # of the file, where it has more than three
    repair: LabelRepair | None = None
    lacks_columns_px: int = 0  # at the right of its rasters: no data there


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be prepared, and how."""

    name: str
    origin: str
    classes: dict[str, ClassFile]  # by label kind; they differ in what is ignored
    sources: dict[str, list[Source]]  # by split
    split: NamedSplit
    tiling: Tiling
    prepared_with: dict[str, Any]
    bands: str = "rgb"
    mask_kind: str = "auto"  # see MaskDecoder
    unknown_to_ignore: bool = False
    unknown_text: tuple[str, str] = _UNKNOWN_TEXT  # see describe_unknown
    ranges: dict[str, tuple[float, float] | None] = field(default_factory=dict)  # of the sensors
    notes: tuple[str, ...] = ()

    def jobs(self) -> list[tuple[str, Source]]:
        """Every source with its split."""
        return [(split, source) for split, members in self.sources.items() for source in members]

    def label_kinds(self) -> tuple[str, ...]:
        """The kinds of label that any source has."""
        found = {kind for _, source in self.jobs() for kind in source.labels}
        return tuple(kind for kind in LABEL_FOLDERS if kind in found)

    def digest(self) -> str:
        """Stands for all that decides what is written: settings, and the files that are read."""
        files = [
            [split, source.id, *(member.identity() for member in _members(source))]
            for split, source in self.jobs()
        ]
        plain = json.dumps([self.prepared_with, files], sort_keys=True, default=str)
        return hashlib.sha256(plain.encode()).hexdigest()


def prepare(root: Path, plan: Plan, num_workers: int) -> Summary:
    """Read every source once, cut it and write the data set; sensors after that.

    The result does not depend on ``num_workers``, nor on how often the run was killed.

    Raises:
        MissingDataError, DataError: a file cannot be read, sizes differ, or masks hold colours or
            values that no class has (all of them, counted). Nothing is left at ``root``.
    """
    first = next(iter(plan.classes.values()))
    _check_sizes(plan, num_workers)
    writer = TileSetWriter(
        root,
        name=plan.name,
        classes=first.names,
        palette=first.colors,
        origin=plan.origin,
        prepared_with=plan.prepared_with,
        split_name=plan.split.name,
        split_source=plan.split.source,
        unlabelled=plan.split.unlabelled,
        label_kinds=plan.label_kinds(),
        bands=plan.bands,
        begun_with=plan.digest(),
    )
    with writer:
        records = _prepare_tiles(writer.folder, plan, num_workers)
        for (split, _), record in zip(plan.jobs(), records, strict=True):
            for entry in record["tiles"]:
                writer.record(split, Tile(**entry["tile"]), entry["pixels"])
        summary = summarize(
            splits=[split for split, _ in plan.jobs()],
            records=records,
            num_classes=len(first.names),
            notes=_notes(plan, records, writer.split_sha256()),
        )
        _prepare_sensors(writer.folder, plan, records, num_workers)
    return summary


def _members(source: Source) -> Iterator[Member]:
    yield from (source.image, *source.labels.values(), *source.rasters.values())


def _check_sizes(plan: Plan, num_workers: int) -> None:
    """Compare every image with its masks and rasters."""
    sources = [source for _, source in plan.jobs()]
    differ: dict[str, list[str]] = {}
    checks = read_ahead(_size_faults, sources, num_threads=num_workers, ahead=2 * num_workers)
    with closing(checks):
        for found in tqdm(checks, desc="checking", total=len(sources), unit="image"):
            for what, fault in found:
                differ.setdefault(what, []).append(fault)
    for what, faults in differ.items():
        raise DataError(
            f"{len(faults)} of {len(sources)} images have not the size of their {what} (height x "
            f"width; first: {faults[0]}); give them one size"
        )


def _size_faults(source: Source) -> list[tuple[str, str]]:
    """What has another size than the image, and a clause that says so."""
    height, width = source.image.image_size()
    others = [(_MASK_NAMES[kind], member, 0) for kind, member in source.labels.items()]
    others += [(name, member, source.lacks_columns_px) for name, member in source.rasters.items()]
    faults = []
    for what, member, lacks_px in others:
        size = member.image_size()
        if size not in ((height, width), (height, width - lacks_px)):
            sizes = f"{source.image.name} is {height} x {width} and {member.name} is"
            faults.append((what, f"{sizes} {size[0]} x {size[1]}"))
    return faults


def _prepare_tiles(folder: Path, plan: Plan, num_workers: int) -> list[Record]:
    """Write the tiles of every source that is not done yet; the records of all."""
    decoders = {
        kind: MaskDecoder(classes, plan.mask_kind) for kind, classes in plan.classes.items()
    }
    unknown_seen: list[Record] = []

    def work(job: tuple[str, Source]) -> Record:
        split, source = job
        path = folder / RECORDS / "tiles" / f"{source.id}.json"
        if path.is_file():
            return read_json(path)
        decoded = {
            kind: decoders[kind].decode(member.open_image(), member.name, source.repair)
            for kind, member in source.labels.items()
        }
        record = _record(source, decoded)
        if record["unknown"] and not plan.unknown_to_ignore:
            unknown_seen.append(record)
        if not unknown_seen:  # else nothing is written any more: find out what else is unknown
            record |= _write_source(folder, plan, split, source, decoded)
            write_json(path, record)
        return record

    jobs = plan.jobs()
    results = read_ahead(work, jobs, num_threads=num_workers, ahead=2 * num_workers)
    with closing(results):
        records = list(tqdm(results, desc="preparing", total=len(jobs), unit="image"))
    if unknown_seen:
        raise DataError(describe_unknown(records, plan.unknown_text))
    return records


def _record(source: Source, decoded: dict[str, Decoded]) -> Record:
    return {
        "pixels": decoded["full"].pixels.tolist() if "full" in decoded else None,
        "num_label_pixels": sum(int(result.pixels.sum()) for result in decoded.values()),
        "unknown": {
            kind: {"in": source.labels[kind].name, "counts": result.unknown}
            for kind, result in decoded.items()
            if result.unknown
        },
        "num_repaired": {
            kind: result.num_repaired for kind, result in decoded.items() if result.num_repaired
        },
    }


def _write_source(
    folder: Path, plan: Plan, split: str, source: Source, decoded: dict[str, Decoded]
) -> Record:
    """Cut one source; its tiles and their class histograms."""
    image = _pixels(source.image.open_image(), source)
    num_classes = len(next(iter(plan.classes.values())).names)
    entries = []
    for tile in plan.tiling.tiles(source.id, split, image.shape[:2]):
        rows = slice(tile.top_px, tile.top_px + tile.height_px)
        columns = slice(tile.left_px, tile.left_px + tile.width_px)
        targets = {kind: result.target[rows, columns] for kind, result in decoded.items()}
        write_tile(folder, tile, image[rows, columns], targets)
        pixels = count_classes(targets["full"], num_classes) if "full" in targets else None
        entries.append({"tile": asdict(tile), "pixels": pixels})
    return {"tiles": entries, "num_pixels": image.shape[0] * image.shape[1]}


def _pixels(image: Image.Image, source: Source) -> np.ndarray:
    """``(H, W, 3)`` uint8: the chosen channels, or what Pillow makes RGB of."""
    name, channels = source.image.name, source.channels
    if image.mode.startswith(("I", "F")):
        raise DataError(
            f"{name} has more than 8 bits a channel (mode {image.mode}); convert it to 8-bit RGB"
        )
    blended = getattr(image, "tag_v2", {}).get(_EXTRA_SAMPLES) == (1,)  # Pillow divides by it
    if channels and (blended or max(channels) >= len(image.getbands())):
        raise DataError(
            f"{name} has not four bands that can be told apart (mode {image.mode}); add the "
            "archive of the images with three"
        )
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top, part in strips(image, None if channels else "RGB"):
        pixels[top : top + len(part)] = part[..., channels] if channels else part
    return pixels


def _prepare_sensors(folder: Path, plan: Plan, records: list[Record], num_workers: int) -> None:
    """Write the store of every sensor."""
    tiles = [[Tile(**entry["tile"]) for entry in record["tiles"]] for record in records]
    for name in sorted({name for _, source in plan.jobs() for name in source.rasters}):
        rasters = [
            SourceRaster(
                id=source.id,
                file=source.rasters[name],
                tiles=own,
                lacks_columns_px=source.lacks_columns_px,
            )
            for (_, source), own in zip(plan.jobs(), tiles, strict=True)
        ]
        store_rasters(
            folder,
            name,
            rasters,
            None,
            plan.ranges.get(name),
            num_workers=num_workers,
            none=f"no raster of the sensor {name} holds a pixel with data; leave it out",
            records=folder / RECORDS / name,
        )


def _notes(plan: Plan, records: list[Record], sha256: str) -> tuple[str, ...]:
    """Lines about the split, the labels, and what is worth a warning."""
    lines = [f"split '{plan.split.name}', SHA-256 {sha256[:8]}...: {plan.split.source}"]
    num_of = Counter(kind for _, source in plan.jobs() for kind in source.labels)
    total = len(plan.jobs())
    kinds = [f"{kind} of {num_of[kind]}" for kind in plan.label_kinds()]
    lines.append(f"labels of {total} images: {', '.join(kinds)}")
    for (_, source), record in zip(plan.jobs(), records, strict=True):
        for kind, number in record["num_repaired"].items():
            assert source.repair is not None
            lines.append(
                f"repaired: {number:,} pixels of {source.id} ({kind}): {source.repair.why}"
            )
    return (*lines, *plan.notes)
