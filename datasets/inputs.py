"""What infer.py reads: a folder of images, or a split of a prepared data set."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.tiles import Tile, TileSet, open_tile_set
from utils.errors import ConfigError, DataError
from utils.files import list_images


@dataclass(frozen=True, kw_only=True)
class Input:
    """An image to segment."""

    path: Path
    result: Path  # name of its results, relative to the output folder, ends in .png
    stem: str  # the image's own name, without folder and suffix


def find_inputs(source: Path, output: Path, split: str | None) -> list[Input]:
    """Find the images to segment.

    Args:
        source: a folder, searched recursively; with ``split`` a prepared data set.
        output: where the results go; images in it are left out.
        split: of the data set.

    Raises:
        MissingDataError: no image, no data set, no such split.
        ConfigError: a prepared data set without a split.
        DataError: the split's images were cut into tiles.
    """
    if split is not None:
        tile_set = open_tile_set(source)
        return [
            Input(
                path=tile_set.image_path(tile.id),
                result=Path(f"{tile.source}.png"),
                stem=tile.source,
            )
            for tile in _whole_images(tile_set, split)
        ]
    if (source / "dataset.json").is_file():
        raise ConfigError(
            f"{source} is a prepared data set; say which of its images: --split, e.g. --split test"
        )
    paths = [p for p in list_images(source) if output.resolve() not in p.resolve().parents]
    results = _name_results(paths, source)
    return [Input(path=path, result=results[path], stem=path.stem) for path in paths]


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


def _name_results(paths: list[Path], root: Path) -> dict[Path, Path]:
    """Names of the results: the images' folders and names, ``.png``.

    Images of one folder that differ only in their suffix keep it (``a.jpg.png``, ``a.tif.png``).
    """
    plain = {path: path.relative_to(root).with_suffix(".png") for path in paths}
    count = Counter(plain.values())
    return {
        path: name if count[name] == 1 else Path(f"{path.relative_to(root)}.png")
        for path, name in plain.items()
    }


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
