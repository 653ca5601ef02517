"""Any folder of images and masks -> a prepared data set.

Splits are made of source images, never of tiles. Training images are cut with overlap; validation
and test images without, because an evaluated pixel must be counted once.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets.class_file import ClassFile, MaskDecoder
from datasets.tiles import SPLITS, Tile, TileSetWriter
from utils.errors import ConfigError, DataError, MissingDataError
from utils.files import list_images, read_rgb
from utils.sliding_window import window_starts

_MASK_FOLDERS = ("labels", "masks")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source image and its mask."""

    id: str  # path below the image folder without suffix, '/' replaced by '__'
    image_path: Path
    mask_path: Path


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
        elif self.tile_size_px < 32:
            raise ConfigError(f"--tile-size is {self.tile_size_px}; it must be 32 or more")
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


def find_pairs(images: Path, masks: Path) -> list[Source]:
    """Every image below one folder with the mask of the same name below another.

    Raises:
        MissingDataError: an image without mask or a mask without image; counts and names them.
        DataError: two images of one folder differ only in their suffix.
    """
    image_of, mask_of = (_by_name(folder) for folder in (images, masks))
    for have, lack, what in ((image_of, mask_of, "mask"), (mask_of, image_of, "image")):
        alone = sorted(have.keys() - lack.keys())
        if alone:
            other = masks if what == "mask" else images
            raise MissingDataError(
                f"{len(alone)} of {len(have)} {'images' if what == 'mask' else 'masks'} have no "
                f"{what} of the same name in {other} (first: {', '.join(alone[:3])}); add the "
                "missing files or remove the others"
            )
    return [
        Source(id=name.replace("/", "__"), image_path=image_of[name], mask_path=mask_of[name])
        for name in sorted(image_of)
    ]


def _by_name(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in list_images(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise DataError(f"{found[name]} and {path} have one name; rename or remove one of them")
        found[name] = path
    return found


def find_split_folders(tree: Path) -> dict[str, list[Source]]:
    """Pairs in ``TREE/SPLIT/images`` and ``TREE/SPLIT/labels`` (or ``masks``), by split.

    Raises:
        MissingDataError: no split folder, or one without masks.
    """
    found = {}
    for split in SPLITS:
        folder = tree / split
        if not folder.is_dir():
            continue
        masks = [folder / name for name in _MASK_FOLDERS if (folder / name).is_dir()]
        if not masks:
            raise MissingDataError(f"{folder} has no folder '{_MASK_FOLDERS[0]}' or 'masks'")
        found[split] = find_pairs(folder / "images", masks[0])
    if "train" not in found:
        raise MissingDataError(
            f"{tree} has no folder 'train'; expected {tree}/SPLIT/images and {tree}/SPLIT/labels "
            f"(or masks) with SPLIT one of {', '.join(SPLITS)}, or give --images and --labels"
        )
    return found


def split_by_lists(sources: list[Source], lists: dict[str, Path]) -> dict[str, list[Source]]:
    """Splits from text files with one image a line: its path without suffix.

    Raises:
        MissingDataError: a list is missing, or names an image that is not there.
        DataError: an image is in two lists.
    """
    by_id = {source.id: source for source in sources}
    found: dict[str, list[Source]] = {}
    seen: dict[str, str] = {}
    for split, path in lists.items():
        if not path.is_file():
            raise MissingDataError(f"the split list {path} does not exist")
        found[split] = []
        for line in filter(None, map(str.strip, path.read_text(encoding="utf-8").splitlines())):
            name = line.replace("/", "__")
            if name not in by_id:
                raise MissingDataError(f"{path} names '{line}', and there is no such image")
            if seen.setdefault(name, split) != split:
                raise DataError(f"'{line}' is in the lists of {seen[name]} and {split}")
            found[split].append(by_id[name])
    return found


def split_by_shares(
    sources: list[Source], shares: tuple[float, ...], seed: int
) -> dict[str, list[Source]]:
    """Random train, val and test splits of the source images.

    Args:
        sources: all of them.
        shares: of train, val and test; they sum to 1. A split with a share gets one image at least.
        seed: the same seed gives the same splits.

    Raises:
        ConfigError: shares that do not sum to 1, or too few images for them.
    """
    if any(share < 0 for share in shares) or abs(sum(shares) - 1) > 1e-6 or shares[0] == 0:
        raise ConfigError(f"--shares must be three numbers that sum to 1, not {shares}")
    counts = [max(1, round(share * len(sources))) if share else 0 for share in shares]
    counts[0] = len(sources) - sum(counts[1:])
    if counts[0] < 1:
        raise ConfigError(f"{len(sources)} images are too few for the shares {shares}")
    order = np.random.default_rng(seed).permutation(len(sources))
    groups = np.split(order, np.cumsum(counts)[:-1])
    return {
        split: [sources[i] for i in sorted(group)]
        for split, group in zip(SPLITS, groups, strict=True)
        if len(group)
    }


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was prepared: numbers by split, and pixels of each class (last: ignored)."""

    num_sources: dict[str, int]
    num_tiles: dict[str, int]
    num_pixels: dict[str, np.ndarray]
    unknown: Counter[str]


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

    Raises:
        DataError: a file cannot be read, sizes differ, or masks hold colours or values that the
            class file does not name (all of them, counted). Nothing is left at ``root``.
    """
    decoder = MaskDecoder(classes, label_kind)
    unknown: Counter[str] = Counter()
    example: dict[str, Path] = {}
    num_tiles: Counter[str] = Counter()
    num_pixels = {split: np.zeros(256, np.int64) for split in splits}
    writer = TileSetWriter(
        root,
        name=root.name,
        classes=classes.names,
        palette=classes.colors,
        origin="folder",
        prepared_with=prepared_with,
    )
    with writer:
        jobs = [(split, source) for split, members in splits.items() for source in members]
        for split, source in tqdm(jobs, desc="prepare", unit="image"):
            image, target, strange = _read_pair(source, decoder)
            unknown.update(strange)
            example.update({key: source.mask_path for key in strange if key not in example})
            num_pixels[split] += np.bincount(target.ravel(), minlength=256)
            for tile, rows, columns in _cut(source, split, target.shape, tiling):
                writer.add(split, tile, image[rows, columns], target[rows, columns])
                num_tiles[split] += 1
        if unknown and not unknown_to_ignore:
            raise DataError(_describe_unknown(unknown, example))
    kept = [*range(len(classes.names)), 255]
    return Summary(
        num_sources={split: len(members) for split, members in splits.items()},
        num_tiles=dict(num_tiles),
        num_pixels={split: counts[kept] for split, counts in num_pixels.items()},
        unknown=unknown,
    )


def _read_pair(source: Source, decoder: MaskDecoder) -> tuple[np.ndarray, np.ndarray, Any]:
    image = read_rgb(source.image_path)
    target, unknown = decoder.read(source.mask_path)
    if image.shape[:2] != target.shape:
        raise DataError(
            f"{source.image_path} is {image.shape[:2]} and {source.mask_path} {target.shape} "
            "(height, width); an image and its mask must have one size"
        )
    return image, target, unknown


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


def _describe_unknown(unknown: Counter[str], example: dict[str, Path]) -> str:
    lines = "".join(
        f"\n  {key}: {count:,} pixels, e.g. in {example[key]}"
        for key, count in unknown.most_common(20)
    )
    more = f"\n  and {len(unknown) - 20} more" if len(unknown) > 20 else ""
    return (
        f"the masks hold {len(unknown)} colours or values that the class file does not name; add "
        f"them to it, or give --unknown-to-ignore:{lines}{more}"
    )
