"""What infer.py reads: images, folders and patterns, or a split of a prepared data set."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path

from datasets.tile_set import Tile, TileSet, open_tile_set
from utils.errors import ConfigError, DataError, MissingDataError
from utils.files import list_images

_TIFF_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class Input:
    """An image to segment."""

    path: Path
    result: Path  # name of its results, relative to the output folder; .tif for a TIFF, else .png
    stem: str  # the image's own name, without folder and suffix
    tile_id: str | None = None  # in the prepared data set it comes from


def find_inputs(
    source: str | Path, output: Path, split: str | None, *, png: bool = False
) -> list[Input]:
    """Find the images to segment.

    Args:
        source: an image file, a folder, which is searched recursively, or a pattern such as
            ``photos/**/*.jpg``; with ``split`` a prepared data set.
        output: where the results go; images in it are left out.
        split: of the data set.
        png: the results of TIFF files are PNG, too.

    Raises:
        MissingDataError: no image, no data set, no such split.
        ConfigError: a prepared data set without a split.
        DataError: the split's images were cut into tiles.
    """
    if split is not None:
        return _images_of(open_tile_set(Path(source)), split)
    found = [
        (path, name)
        for path, name in _find(str(source))
        if output.resolve() not in path.resolve().parents
    ]
    if not found:
        raise MissingDataError(f"{source} holds no image outside {output}, where the results go")
    count = Counter(name.with_suffix("") for _, name in found)
    return [
        Input(
            path=path,
            result=_result(name, png, count[name.with_suffix("")] > 1),
            stem=path.stem,
        )
        for path, name in found
    ]


def _result(name: Path, png: bool, keep_suffix: bool) -> Path:
    """Name of the results: the image's folder and name, and the suffix of what is written.

    Images of one folder that differ only in their suffix keep it (``a.jpg.png``, ``a.tif.tif``).
    """
    suffix = ".tif" if name.suffix.lower() in _TIFF_SUFFIXES and not png else ".png"
    return Path(f"{name if keep_suffix else name.with_suffix('')}{suffix}")


def _images_of(tile_set: TileSet, split: str) -> list[Input]:
    return [
        Input(
            path=tile_set.image_path(tile.id),
            result=Path(f"{tile.source}.png"),
            stem=tile.source,
            tile_id=tile.id,
        )
        for tile in _whole_images(tile_set, split)
    ]


def _find(source: str) -> list[tuple[Path, Path]]:
    """The images of one source, each with its name below the source's folder, sorted."""
    path = Path(source)
    if (path / "dataset.json").is_file():
        raise ConfigError(
            f"{path} is a prepared data set; say which of its images: --split, e.g. --split test"
        )
    if path.is_file():
        return [(path, Path(path.name))]
    if path.is_dir():
        return [(found, found.relative_to(path)) for found in list_images(path)]
    if not has_magic(source):
        raise MissingDataError(f"--input {path} does not exist")
    folder = _before_wildcards(path)
    names = (found.relative_to(folder) for found in folder.glob(str(path.relative_to(folder))))
    files = [
        (folder / name, name)
        for name in sorted(names)
        if (folder / name).is_file() and not any(part.startswith(".") for part in name.parts)
    ]
    if not files:
        raise MissingDataError(f"no file is called like --input {source}")
    return files


def _before_wildcards(pattern: Path) -> Path:
    """The folder of a pattern that no wildcard is in."""
    parts = pattern.parts
    first = next(index for index, part in enumerate(parts) if has_magic(part))
    return Path(*parts[:first])


def submission_names(inputs: Sequence[Input]) -> dict[str, Path]:
    """For every name in a submission (``STEM.png``, no folders) the result that gets it.

    Raises:
        DataError: two images would have one name.
    """
    owners: dict[str, Input] = {}
    for image in inputs:
        name = f"{image.stem}.png"
        if name in owners:
            raise DataError(
                f"{owners[name].path} and {image.path} would both be {name} in the submission; "
                "rename or remove one of them"
            )
        owners[name] = image
    return {name: image.result for name, image in owners.items()}


def submission_sizes(tile_set: TileSet, split: str) -> dict[str, tuple[int, int]]:
    """Name and size (height, width) of every image in a submission of a split.

    Raises:
        MissingDataError: there is no such split.
        DataError: its images were cut into tiles.
    """
    tiles = _whole_images(tile_set, split)
    return {f"{tile.source}.png": (tile.height_px, tile.width_px) for tile in tiles}


def _whole_images(tile_set: TileSet, split: str) -> list[Tile]:
    """The tiles of a split, each of which is its whole source image."""
    tiles = [tile_set.tiles[tile_id] for tile_id in tile_set.split(split)]
    count = Counter(tile.source for tile in tile_set.tiles.values())
    cut = [tile for tile in tiles if count[tile.source] > 1 or tile.top_px or tile.left_px]
    if cut:
        raise DataError(
            f"the images of the split '{split}' of {tile_set.root} were cut into tiles (first: "
            f"'{cut[0].id}'); prepare the data set with --keep-whole {split}"
        )
    return tiles
