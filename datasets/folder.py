"""Any folder of images and masks -> a prepared data set.

Training images are cut with overlap; validation and test images without, into nearly equal parts,
because an evaluated pixel must be counted once. Which image is in which split is decided in
``datasets.folder_splits``, what the masks mean in ``datasets.class_file``.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from configs.schema import IGNORE_INDEX
from datasets.class_file import ClassFile, MaskDecoder
from datasets.folder_splits import Source
from datasets.tiles import Tile, TileSetWriter
from utils.errors import ConfigError, DataError
from utils.files import read_rgb
from utils.sliding_window import window_starts

_MIN_TILE_PX = 32  # the coarsest scale of the network is 1/32
_NUM_LISTED = 20  # unknown colours in an error; a lossy mask has thousands


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How source images are cut."""

    tile_size_px: int | None  # None: nothing is cut
    overlap_px: int = 0  # of neighbouring training tiles, at least
    keep_whole: tuple[str, ...] = ()  # splits whose images are not cut

    def __post_init__(self) -> None:
        if self.tile_size_px is None:
            if self.overlap_px:
                raise ConfigError("--overlap needs --tile-size")
        elif self.tile_size_px < _MIN_TILE_PX:
            raise ConfigError(
                f"--tile-size is {self.tile_size_px}; it must be {_MIN_TILE_PX} or more"
            )
        elif not 0 <= self.overlap_px < self.tile_size_px:
            raise ConfigError(
                f"--overlap is {self.overlap_px}; it must be at least 0 and below --tile-size "
                f"({self.tile_size_px})"
            )

    def windows(self, split: str, height: int, width: int) -> list[tuple[int, int, int, int]]:
        """Top, left, height and width of every tile of an image, in pixels."""
        if self.tile_size_px is None or split in self.keep_whole:
            return [(0, 0, height, width)]
        rows, columns = (self._spans(split, length) for length in (height, width))
        return [(top, left, h, w) for top, h in rows for left, w in columns]

    def _spans(self, split: str, length_px: int) -> list[tuple[int, int]]:
        """Start and length of the tiles along one side."""
        assert self.tile_size_px is not None
        if split == "train":
            starts = window_starts(length_px, self.tile_size_px, self.overlap_px)
            return [(start, min(self.tile_size_px, length_px)) for start in starts]
        num_tiles = -(-length_px // self.tile_size_px)
        edges = [round(i * length_px / num_tiles) for i in range(num_tiles + 1)]
        return [(edges[i], edges[i + 1] - edges[i]) for i in range(num_tiles)]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was prepared. Pixels are those of the source images: overlaps count once."""

    num_sources: dict[str, int]  # by split
    num_tiles: dict[str, int]  # by split
    num_pixels: dict[str, np.ndarray]  # by split: (num_classes + 1,) int64, the last is ignored
    unknown: Counter[str]  # pixels of every unknown colour or value, turned to ignore

    def table(self, names: tuple[str, ...]) -> str:
        """Lay it out with the splits across, numbers and class shares down; warnings below."""
        splits = list(self.num_sources)
        totals = {split: self.num_pixels[split].sum() for split in splits}
        rows = [
            ("", splits),
            ("images", [str(self.num_sources[split]) for split in splits]),
            ("tiles", [str(self.num_tiles[split]) for split in splits]),
            ("megapixels", [f"{totals[split] / 1e6:.1f}" for split in splits]),
        ]
        for index, name in enumerate((*names, "ignored")):
            shares = [100 * self.num_pixels[split][index] / totals[split] for split in splits]
            rows.append((name, [f"{share:.1f} %" for share in shares]))
        width = max(len(name) for name, _ in rows)
        lines = [
            name.ljust(width) + "".join(f"{cell:>12}" for cell in cells) for name, cells in rows
        ]
        for index, name in enumerate(names):
            if "train" in splits and self.num_pixels["train"][index] == 0:
                lines.append(f"warning: no training pixel is of class '{name}'")
        for key, count in self.unknown.most_common():
            lines.append(f"ignored: {count:,} pixels of the unknown {key}")
        return "\n".join(lines)


def prepare_folder(
    root: Path,
    *,
    splits: dict[str, list[Source]],
    classes: ClassFile,
    tiling: Tiling,
    label_kind: str,
    unknown_to_ignore: bool,
    prepared_with: dict[str, Any],
) -> Summary:
    """Read every image and mask once, cut them and write the data set.

    Sizes are compared first, from the files' headers, so that this mistake shows within seconds.

    Raises:
        DataError: a file cannot be read, sizes differ, or masks hold colours or values that the
            class file does not name (all of them, counted). Nothing is left at ``root``.
    """
    jobs = [(split, source) for split, members in splits.items() for source in members]
    _check_sizes([source for _, source in jobs])
    decoder = MaskDecoder(classes, label_kind)
    unknown: Counter[str] = Counter()
    example: dict[str, Path] = {}
    num_tiles: Counter[str] = Counter()
    num_pixels = {split: np.zeros(IGNORE_INDEX + 1, np.int64) for split in splits}
    writer = TileSetWriter(
        root,
        name=root.name,
        classes=classes.names,
        palette=classes.colors,
        origin="folder",
        prepared_with=prepared_with,
    )
    with writer:
        for split, source in tqdm(jobs, desc="preparing", unit="image"):
            target, strange = decoder.read(source.mask_path)
            unknown.update(strange)
            for key in strange:
                example.setdefault(key, source.mask_path)
            num_pixels[split] += np.bincount(target.ravel(), minlength=IGNORE_INDEX + 1)
            if unknown and not unknown_to_ignore:
                continue  # this cannot be written any more; find out what else is unknown
            image = read_rgb(source.image_path)
            for tile, rows, columns in _cut(source, split, target.shape, tiling):
                writer.add(split, tile, image[rows, columns], target[rows, columns])
                num_tiles[split] += 1
        if unknown and not unknown_to_ignore:
            total = int(sum(counts.sum() for counts in num_pixels.values()))
            raise DataError(_describe_unknown(unknown, example, total))
    kept = [*range(len(classes.names)), IGNORE_INDEX]
    return Summary(
        num_sources={split: len(members) for split, members in splits.items()},
        num_tiles=dict(num_tiles),
        num_pixels={split: counts[kept] for split, counts in num_pixels.items()},
        unknown=unknown,
    )


def _check_sizes(sources: list[Source]) -> None:
    """Compare every image with its mask."""
    differ = []
    for source in sources:
        image, mask = _read_size(source.image_path), _read_size(source.mask_path)
        if image != mask:
            differ.append(f"{source.image_path} is {image} and {source.mask_path} is {mask}")
    if differ:
        raise DataError(
            f"{len(differ)} of {len(sources)} images have not the size of their mask (height x "
            f"width; first: {differ[0]}); give them one size"
        )


def _read_size(path: Path) -> str:
    """``height x width`` from the file's header."""
    try:
        with Image.open(path) as image:
            return f"{image.height} x {image.width}"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}); replace the file") from error


def _cut(
    source: Source, split: str, size: tuple[int, ...], tiling: Tiling
) -> Iterator[tuple[Tile, slice, slice]]:
    windows = tiling.windows(split, size[0], size[1])
    for top, left, height, width in windows:
        suffix = f"_y{top:05d}_x{left:05d}" if len(windows) > 1 else ""
        tile = Tile(
            id=source.id + suffix,
            source=source.id,
            top_px=top,
            left_px=left,
            height_px=height,
            width_px=width,
        )
        yield tile, slice(top, top + height), slice(left, left + width)


def _describe_unknown(unknown: Counter[str], example: dict[str, Path], total: int) -> str:
    lines = "".join(
        f"\n  {key}: {count:,} pixels ({count / total:.3%}), e.g. in {example[key]}"
        for key, count in unknown.most_common(_NUM_LISTED)
    )
    more = len(unknown) - _NUM_LISTED
    lines += f"\n  and {more} more" if more > 0 else ""
    suffixes = {path.suffix.lower() for path in example.values()}
    lossy = "; JPEG blurs colours, masks should be PNG" if suffixes & {".jpg", ".jpeg"} else ""
    return (
        f"the masks hold {len(unknown)} colours or values that the class file does not name "
        f"({unknown.total() / total:.3%} of all pixels{lossy}); add them to it, check "
        f"--label-kind, or give --unknown-to-ignore:{lines}"
    )
