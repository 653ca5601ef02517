"""Pairs of an image and its labels, found by the layout of folders and the names of files.

The name of an image is its path below the folder of images, without file suffix and without an
ending that all names of images share (``--image-suffix``); those of masks likewise. Files of one
name belong together. The id of an image is its name with ``__`` for ``/``.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.preparation.archives import ArchiveFile
from datasets.preparation.pairing.naming import propose_suffixes
from datasets.preparation.pipeline import Source
from datasets.tile_set import SPLITS
from utils.console import counted
from utils.errors import ConfigError, DataError, MissingDataError
from utils.files import IMAGE_SUFFIXES, list_content, passed_over_line
from utils.rasters.vectors import POLYGON_SUFFIX, is_polygons

_IMAGE_FOLDERS = ("images", "img_dir")
_MASK_FOLDERS = ("labels", "masks", "ann_dir")
_OTHER_POLYGONS = (".json", ".shp", ".gpkg", ".kml", ".fgb")
Say = Callable[[str], None]  # prints a line
_NUM_NAMED = 3  # names in an error; the rest is counted


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Places of the images and of their labels, and the endings of their names.

    Attributes:
        images: a folder, searched recursively, or an image file.
        masks: a folder as well, or a file: the mask of a single image, or polygons for all images;
            None: images without labels.
        image_suffix: ending of the names of all images; files without it are none. It may include
            the file suffix.
        mask_suffix: that of the masks.
    """

    images: Path
    masks: Path | None
    image_suffix: str = ""
    mask_suffix: str = ""


def image_id(name: str) -> str:
    """Return the id of an image from its name."""
    return name.replace("/", "__")


def first_of(names: Sequence[str]) -> str:
    """Return the first names of a list, for a message."""
    return f"first: {', '.join(names[:_NUM_NAMED])}"


def check_ids(sources: Iterable[Source]) -> None:
    """Refuse two images of one id.

    Raises:
        DataError: naming both.
    """
    found: dict[str, str] = {}
    for source in sources:
        if source.id in found:
            raise DataError(
                f"{found[source.id]} and {source.image.name} would both be named '{source.id}'; "
                "rename one of them"
            )
        found[source.id] = source.image.name


def split_folders(tree: Path) -> dict[str, Folders]:
    """Return the folders of every split of a tree; nothing if its images are in no split.

    The layouts are ``TREE/SPLIT/images`` with ``TREE/SPLIT/labels`` (or ``masks``), and
    ``TREE/img_dir/SPLIT`` with ``TREE/ann_dir/SPLIT``. Only train must have masks.

    Raises:
        MissingDataError: the tree has no folder of images, or train none of masks.
        DataError: several layouts at once, or a folder of images is not named after a split.
    """
    if not tree.is_dir():
        raise MissingDataError(f"{tree} is not a folder")
    roots = _present(tree, _IMAGE_FOLDERS)
    found = [
        (group.name, Folders(images=images, masks=_mask_folder(group)))
        for group in sorted(tree.iterdir())
        if not _is_output(group)
        for images in _present(group, _IMAGE_FOLDERS)
    ]
    names = [*(f"'{root.name}'" for root in roots), *(name for name, _ in found)]
    if roots and len(names) > 1:
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        raise DataError(f"{tree} has {listed}; move one of them out")
    if not names:
        raise MissingDataError(
            f"{tree} has neither SPLIT/images (with SPLIT/labels or SPLIT/masks) nor img_dir/SPLIT "
            f"(with ann_dir/SPLIT), SPLIT being {', '.join(SPLITS)}, nor images (with labels or "
            "masks) without splits; rename its folders, or give --images and --labels"
        )
    if roots:
        masks = _mask_folder(tree) if (splits := _splits_below(roots[0])) else None
        found = [
            (name, Folders(images=roots[0] / name, masks=_below(masks, name))) for name in splits
        ]
    if unknown := [name for name, _ in found if name not in SPLITS]:
        raise DataError(
            f"{tree} has images in {', '.join(unknown)}, which is not a split; rename it to one of "
            f"{', '.join(SPLITS)}, or move it out"
        )
    folders = dict(found)
    if "train" in folders and folders["train"].masks is None:
        raise MissingDataError(
            f"{folders['train'].images} has no folder of masks ({', '.join(_MASK_FOLDERS)}) that "
            "belongs to it; only val and test may be without labels"
        )
    return {split: folders[split] for split in SPLITS if split in folders}


def _is_output(folder: Path) -> bool:
    """Return whether a folder is hidden, as an unfinished data set is, or a prepared data set."""
    return folder.name.startswith(".") or (folder / "dataset.json").is_file()


def flat_folders(tree: Path) -> Folders:
    """Return the folders of a tree whose images are in no split.

    Raises:
        MissingDataError: there is no folder of masks.
        DataError: there are two of them.
    """
    if (masks := _mask_folder(tree)) is None:
        raise MissingDataError(
            f"{tree} has no folder 'labels' or 'masks'; rename that of the masks, or give --images "
            "and --labels instead of --tree"
        )
    return Folders(images=_present(tree, _IMAGE_FOLDERS)[0], masks=masks)


def find_pairs(folders: Folders, say: Say = print) -> list[Source]:
    """Pair every image with the labels of the same name; say what was passed over.

    Raises:
        MissingDataError: images without mask or masks without image; they are counted and named.
        DataError: two files of one folder have the same name or id.
        ConfigError: images and masks lie in one folder, and no ending tells them apart.
    """
    images, masks = _find_files(folders, say)
    if folders.masks is not None and folders.masks.is_file():
        masks = _one_file_for(folders.masks, images)
    elif folders.masks is not None:
        _check_partners(folders, images, masks)
    sources = [
        Source(
            id=image_id(name),
            image=_file(image),
            labels={"full": _file(masks[name])} if name in masks else {},
        )
        for name, image in sorted(images.items())
    ]
    check_ids(sources)
    return sources


def _find_files(folders: Folders, say: Say) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the files of images and of masks by name, and say what was passed over.

    There are no masks if they are in no folder.
    """
    images, masks = folders.images, folders.masks
    if masks is None or masks.is_file():
        return _by_name(say, _list_files(say, images, masks), images, folders.image_suffix), {}
    if images.resolve() == masks.resolve():
        files = _list_files(say, images, None, (POLYGON_SUFFIX,))
        of_masks = {path: None for path in files if _is_mask(path, folders)}
        of_images = [path for path in files if path not in of_masks]
        if not of_masks or not of_images:
            raise ConfigError(_one_folder_text(folders, files))
    else:
        of_images = _list_files(say, images, masks)
        of_masks = dict.fromkeys(_list_files(say, masks, images, (POLYGON_SUFFIX,)))
    by_image = _by_name(say, of_images, images, folders.image_suffix)
    by_mask = _by_name(say, of_masks, masks, folders.mask_suffix)
    if images.is_file():
        by_mask = {name: path for name, path in by_mask.items() if name in by_image}
    return by_image, by_mask


def _list_files(
    say: Say, root: Path, other: Path | None, more_suffixes: Sequence[str] = ()
) -> list[Path]:
    """Return the images below a folder, but not the other files or folder where that is in it."""
    if root.is_file():
        return [root]
    content, apart = list_content(root, more_suffixes), None
    if other is not None and other.resolve().is_relative_to(root.resolve()):
        apart = root / other.resolve().relative_to(root.resolve())
    images, passed_over = (
        [path for path in paths if apart not in (path, *path.parents)]
        for paths in (content.images, content.passed_over)
    )
    if line := passed_over_line(root, passed_over):
        say(line)
    return images


def _by_name(say: Say, paths: Iterable[Path], root: Path, suffix: str) -> dict[str, Path]:
    """Return files by name; those whose names lack an ending are counted and passed over."""
    found: dict[str, Path] = {}
    others = []
    for path in paths:
        name = name_of(path, root, suffix)
        if name is None and path == root:
            name = path.stem
        if name is None:
            others.append(path)
            continue
        if name in found:
            raise DataError(
                f"{found[name]} and {path} have the same name; rename or remove one of them"
            )
        found[name] = path
    if others and not found:
        raise MissingDataError(
            f"no file of {root} has a name that ends in '{suffix}' "
            f"({first_of([path.name for path in others])}); check the suffix"
        )
    if others:
        say(f"passed over {counted(len(others), 'file')} of {root} without the ending '{suffix}'")
    return found


def name_of(path: Path, root: Path, suffix: str = "") -> str | None:
    """Return the name of a file in or at ``root``, without an ending; None if it lacks that."""
    within = Path(path.name) if path == root else path.relative_to(root)
    if not suffix:
        return within.with_suffix("").as_posix()
    for text in (within.name, within.stem):
        if text.endswith(suffix) and text != suffix:
            return (within.parent / text.removesuffix(suffix)).as_posix()
    return None


def _is_mask(path: Path, folders: Folders) -> bool:
    """Return True for the mask in a folder of images and masks: the longer ending decides."""
    is_mask = name_of(path, path, folders.mask_suffix) is not None
    is_image = name_of(path, path, folders.image_suffix) is not None
    longer = len(folders.mask_suffix) > len(folders.image_suffix)
    return is_mask and (is_polygons(path.name) or longer or not is_image)


def _one_file_for(file: Path, images: dict[str, Path]) -> dict[str, Path]:
    """Return the labels of every image if they are in one file."""
    if file.suffix.lower() in _OTHER_POLYGONS:
        raise ConfigError(
            f"--labels {file} is no mask, and polygons must be GeoJSON; convert it: ogr2ogr "
            f"{file.stem}{POLYGON_SUFFIX} {file.name}"
        )
    if len(images) > 1 and not is_polygons(file.name):
        raise ConfigError(
            f"--labels {file} is one mask for {len(images)} images; give a folder of masks, or "
            f"polygons ({POLYGON_SUFFIX})"
        )
    return dict.fromkeys(images, file)


def _check_partners(folders: Folders, images: dict[str, Path], masks: dict[str, Path]) -> None:
    assert folders.masks is not None
    problems = []
    for have, lack, one, other in (
        (images, masks, "image", f"mask of the same name in {folders.masks}"),
        (masks, images, "mask", f"image of the same name in {folders.images}"),
    ):
        if alone := sorted(have.keys() - lack.keys()):
            has = "has" if len(alone) == 1 else "have"
            number = f"{len(alone)} of {counted(len(have), one)} {has} no {other}"
            problems.append(f"{number} ({first_of(alone)})")
    if problems:
        stems = _stems(images.values(), folders.images), _stems(masks.values(), folders.masks)
        proposal = propose_suffixes(*stems)
        remedy = f"{proposal}, else " if proposal else ""
        raise MissingDataError(
            f"{', and '.join(problems)}; {remedy}add the missing files or remove the others"
        )


def _one_folder_text(folders: Folders, files: Iterable[Path]) -> str:
    names = _stems(files, folders.images)
    proposal = propose_suffixes(names, names)
    remedy = proposal or "give --image-suffix and --mask-suffix"
    return (
        f"images and masks lie in one folder, {folders.images}, and no ending of their names tells "
        f"them apart; {remedy}"
    )


def _stems(paths: Iterable[Path], root: Path) -> list[str]:
    return sorted(name_of(path, root) or "" for path in paths)


def _present(folder: Path, names: Iterable[str]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_dir()]


def _mask_folder(folder: Path) -> Path | None:
    masks = _present(folder, _MASK_FOLDERS)
    if len(masks) > 1:
        raise DataError(
            f"{folder} has both '{masks[0].name}' and '{masks[1].name}'; give --images and --labels"
        )
    return masks[0] if masks else None


def _splits_below(root: Path) -> list[str]:
    """Return the folders in a folder of images if these are splits; nothing if any other."""
    entries = [path for path in sorted(root.iterdir()) if not path.name.startswith(".")]
    if any(path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES for path in entries):
        return []
    names = [path.name for path in entries if path.is_dir()]
    return names if {*names} & {*SPLITS} else []


def _below(folder: Path | None, name: str) -> Path | None:
    return folder / name if folder is not None and (folder / name).is_dir() else None


def _file(path: Path) -> ArchiveFile:
    return ArchiveFile(name=str(path), path=path)
