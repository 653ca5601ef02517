"""Input images of infer.py: files, folders and patterns, or a split of a prepared data set."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from glob import has_magic
from itertools import takewhile
from pathlib import Path

from datasets.tile_set import TileSet, open_tile_set
from utils.errors import ConfigError, DataError, MissingDataError
from utils.files import list_images

_TIFF_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class Input:
    """An image to segment."""

    path: Path
    result: Path  # name of its results, relative to the output folder; .tif for a TIFF, else .png
    stem: str  # name of the image without folder and suffix
    tile_id: str | None = None  # in its prepared data set


def find_inputs(
    source: str | Path, output: Path, split: str | None, *, png: bool = False
) -> list[Input]:
    """Find the images to segment.

    Args:
        source: an image file, a folder, which is searched recursively, or a pattern such as
            ``photos/**/*.jpg``; with ``split`` a prepared data set.
        output: folder of the results; images in it are skipped.
        split: of the data set.
        png: write PNG results for TIFF files as well.

    Raises:
        MissingDataError: no image, no data set, no such split.
        ConfigError: a prepared data set without a split.
        DataError: the images of the split were cut into tiles.
    """
    if split is not None:
        return _split_inputs(open_tile_set(Path(source)), split)
    folder = output.resolve()
    found = [each for each in _find(str(source)) if folder not in each[0].resolve().parents]
    if not found:
        raise MissingDataError(f"{source} holds no image outside the folder of results, {output}")
    results = _results([name for _, name in found], png)
    return [Input(path=path, result=results[name], stem=path.stem) for path, name in found]


def _results(names: Sequence[Path], png: bool) -> dict[Path, Path]:
    """Return the name of the results of every image, each a different one.

    Images that would have the same results keep their suffix (``a.jpg.png``, ``a.tif.tif``).
    """
    # A stem is taken by images of that stem, and by one of that name: a.jpg beside a.jpg.png.
    taken = Counter(name.with_suffix("") for name in names) + Counter(names)
    results = {}
    for name in names:
        stem = name.with_suffix("")
        suffix = ".tif" if name.suffix.lower() in _TIFF_SUFFIXES and not png else ".png"
        results[name] = Path(f"{name if taken[stem] > 1 else stem}{suffix}")
    return results


def _split_inputs(tile_set: TileSet, split: str) -> list[Input]:
    """Return the images of a split, each of which must be stored as one tile."""
    tiles = [tile_set.tiles[tile_id] for tile_id in tile_set.split(split)]
    count = Counter(tile.source for tile in tile_set.tiles.values())
    cut = [tile for tile in tiles if count[tile.source] > 1 or tile.top_px or tile.left_px]
    if cut:
        raise DataError(
            f"the images of the split '{split}' of {tile_set.root} were cut into tiles (first: "
            f"'{cut[0].id}'); prepare the data set with --keep-whole {split}"
        )
    return [
        Input(
            path=tile_set.image_path(tile.id),
            result=Path(f"{tile.source}.png"),
            stem=tile.source,
            tile_id=tile.id,
        )
        for tile in tiles
    ]


def _find(source: str) -> list[tuple[Path, Path]]:
    """Find the images of one source, sorted, each with its path relative to the source."""
    path = Path(source)
    if (path / "dataset.json").is_file():
        raise ConfigError(f"{path} is a prepared data set; name one of its splits: --split test")
    if path.is_file():
        return [(path, Path(path.name))]
    if path.is_dir():
        return [(found, found.relative_to(path)) for found in list_images(path)]
    if not has_magic(source):
        raise MissingDataError(f"--input {path} does not exist")
    folder = Path(*takewhile(lambda part: not has_magic(part), path.parts))
    found = sorted(file for file in folder.glob(str(path.relative_to(folder))) if file.is_file())
    files = [(file, file.relative_to(folder)) for file in found]
    visible = [each for each in files if not any(part[0] == "." for part in each[1].parts)]
    if not visible:
        raise MissingDataError(f"no file matches --input {source}")
    return visible


def submission_names(inputs: Sequence[Input]) -> dict[str, Path]:
    """Return the results by their names in a submission, ``STEM.png`` without folders.

    Raises:
        DataError: two images would have the same name.
    """
    owners: dict[str, Input] = {}
    for image in inputs:
        name = f"{image.stem}.png"
        if (owner := owners.setdefault(name, image)) is not image:
            raise DataError(
                f"{owner.path} and {image.path} would both be {name} in the submission; "
                "rename or remove one of them"
            )
    return {name: image.result for name, image in owners.items()}
