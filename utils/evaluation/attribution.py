"""What a network makes of its structure: the same images predicted with changed maps, counted.

Whole numbers are counted for each image and added, over images and ranks alike, so the result does
not depend on how images are shared out. The first prediction of an image is that of its maps as
they are; all others are compared with it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from configs.schema import GENERATORS, IGNORE_INDEX, VALUE_GENERATORS, Config, StructureConfig
from datasets.dataset import Batch, TileDataset
from datasets.encodings import ABSENT, StructureEncoder
from datasets.loaders import build_ordered_loader, whole_tiles
from datasets.samplers import SampleKey
from datasets.structure_generation import MapMaker
from datasets.structure_maps import check_store, map_settings, store_folder
from datasets.tile_set import TileSet
from utils.distributed import DistContext
from utils.errors import ConfigError, DataError, UserError
from utils.evaluation.bootstrap import Intervals, bootstrap
from utils.evaluation.compare import PairedIntervals, paired_intervals
from utils.evaluation.evaluate import Predictor
from utils.evaluation.metrics import Scores, confusion_matrix, scores


@dataclass(frozen=True, kw_only=True)
class Change:
    """What the network is shown instead of some modalities."""

    name: str  # zeroed, shuffled ...
    modalities: tuple[str, ...]  # one, or all at once
    unmeasured: str | None = None  # why it is not tried

    @property
    def subject(self) -> str:
        """The modality, or what stands for all of them."""
        return self.modalities[0] if len(self.modalities) == 1 else "all modalities"


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a change does. Scores are fractions in -1..1, shares in 0..1, nan where unknown."""

    change: Change
    confusion: Tensor  # (C, C) int64, with the change
    differences: PairedIntervals  # changed minus as it is
    moved: float  # share of the counted pixels that are predicted as another class
    moved_by_class: tuple[float, ...]  # the same of the target pixels of every class


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Everything that is reported of an attribution."""

    num_sources: int  # source images with a counted pixel: what the intervals are over
    left_out: tuple[str, ...]  # classes that the means do not count
    confusion: Tensor  # (C, C) int64, as it is
    scores: Scores  # as it is
    intervals: Intervals | None
    changes: tuple[Change, ...]  # all, in order
    effects: tuple[Effect, ...]  # of those that were tried


class ChangeCounts:
    """Counts of the images of this rank.

    Args:
        classes: names of the C classes.
        source_of: the source image of every tile of the split, of all ranks.
        changes: in the order of the predictions; those that are not tried have none.
    """

    def __init__(
        self, classes: Sequence[str], source_of: Mapping[str, str], changes: Sequence[Change]
    ) -> None:
        place = {source: number for number, source in enumerate(sorted({*source_of.values()}))}
        self._classes = tuple(classes)
        self._place = {tile: place[source] for tile, source in source_of.items()}
        self._changes = tuple(changes)
        tried, size = 1 + sum(change.unmeasured is None for change in changes), len(classes)
        self._confusions = torch.zeros(tried, len(place), size, size, dtype=torch.int64)
        self._moved = torch.zeros(tried, size, dtype=torch.int64)  # pixels, by target class

    def add(self, tile_id: str, target: Tensor, predictions: Sequence[Tensor]) -> None:
        """Count an image.

        Args:
            tile_id: which tile of the split.
            target: ``(H, W)`` uint8 class index, 255 = ignore.
            predictions: class indices ``(H, W)`` uint8 of the maps as they are, then of the maps
                with every change that is tried.
        """
        as_it_is, num_classes = predictions[0], len(self._classes)
        place, counted = self._place[tile_id], target != IGNORE_INDEX
        for number, prediction in enumerate(predictions):
            counts = confusion_matrix(target, prediction, num_classes)
            self._confusions[number, place] += counts
            moved = target[counted & (prediction != as_it_is)]
            self._moved[number] += torch.bincount(moved.long(), minlength=num_classes)

    def findings(self, dist: DistContext, left_out: Sequence[str] = ()) -> Attribution:
        """What all ranks found together. Call on all ranks.

        Args:
            dist: this process.
            left_out: names of classes that the means do not count.
        """
        confusions, moved = (
            dist.sum(counts.to(dist.device)).cpu() for counts in (self._confusions, self._moved)
        )
        moved = moved.double()
        without = [self._classes.index(name) for name in left_out]
        total, support = confusions.sum(1), confusions[0].sum((0, 2))
        tried = [change for change in self._changes if change.unmeasured is None]
        effects = []
        for number, change in enumerate(tried, start=1):
            differences = paired_intervals(
                confusions[0].numpy(), confusions[number].numpy(), without
            )
            effects.append(
                Effect(
                    change=change,
                    confusion=total[number],
                    differences=differences,
                    moved=(moved[number].sum() / support.sum()).item(),
                    moved_by_class=tuple((moved[number] / support).tolist()),
                )
            )
        return Attribution(
            num_sources=int(confusions[0].any(-1).any(-1).sum()),
            left_out=tuple(left_out),
            confusion=total[0],
            scores=scores(total[0], without),
            intervals=bootstrap(confusions[0].numpy(), without),
            changes=self._changes,
            effects=tuple(effects),
        )


ZEROED, SHUFFLED, CONSTANT, SUPERPIXELS = "zeroed", "shuffled", "constant", "superpixels"
# What the network is shown without a change, and of whom shuffled maps are, by structure.control.
AS_IT_IS = {
    "on": "every image with its own maps; shuffled: with those of the next image of the split",
    "shuffled": "every image with the maps of the next one; shuffled: with those of the one after",
}
_OTHER = "of the other image: "  # goes before the names of the other image's maps
_SUPERPIXELS = "superpixels of the image"  # the name of what may stand for its segments


def changes_of(structure: StructureConfig, source: str) -> tuple[Change, ...]:
    """What is tried on every modality that is there, and on all of them together.

    Args:
        structure: how the network is used.
        source: the checkpoint's path, for the sentence.

    Raises:
        ConfigError: the network sees no structure.
    """
    if structure.control == "off":
        raise ConfigError(
            f"{source}: structure.control is off, so the second branch sees the RGB picture and "
            "there is no structure whose part could be told; take a checkpoint that was trained "
            "with structure.control=on"
        )
    changes = []
    for name in structure.present():
        holds_values = name in VALUE_GENERATORS or name not in GENERATORS
        reasons = {
            # The middle level is what the stem makes 0, see ABSENT.
            CONSTANT: "is zeroed already" if holds_values else None,
            SUPERPIXELS: "holds values" if holds_values else None,
        }
        if name == "superpixels":
            reasons[SUPERPIXELS] = "is superpixels already"
        changes += [
            Change(name=change, modalities=(name,), unmeasured=reasons.get(change))
            for change in (ZEROED, SHUFFLED, CONSTANT, SUPERPIXELS)
        ]
    if len(structure.present()) > 1:
        changes.append(Change(name=ZEROED, modalities=structure.present()))
    return tuple(changes)


class Changed:
    """A ``StructureEncoder`` that shows some modalities otherwise than they are.

    It takes what ``arguments`` puts together: maps of the image, of another one and superpixels,
    and as ``structure_image`` two pictures, ``(B, 6, H, W)``: the one that the image's maps belong
    to, and that of the other image's.
    """

    def __init__(self, encoder: StructureEncoder, change: Change) -> None:
        self._encoder = encoder
        self._change = change
        others = (_OTHER + store for store in encoder.value_stores)
        self.value_stores = (*encoder.value_stores, *others)

    def __call__(
        self, image: Tensor, maps: dict[str, Tensor], structure_image: Tensor | None = None
    ) -> Tensor:
        """Encode a batch; the channels of the other modalities are the encoder's own."""
        assert structure_image is not None
        picture, other = structure_image.split(3, 1)
        structure = self._encoder(image, maps, picture)
        changed = self._changed(structure, maps, picture, other)
        for modality in self._change.modalities:
            channels = self._encoder.channels[modality]
            structure[:, channels] = changed[:, channels]
        return structure

    def _changed(
        self, structure: Tensor, maps: dict[str, Tensor], picture: Tensor, other: Tensor
    ) -> Tensor:
        """All modalities changed."""
        stores, name = self._encoder.stores, self._change.name
        if name == ZEROED:
            return torch.full_like(structure, ABSENT)
        if name == SHUFFLED:
            return self._encoder(other, {store: maps[_OTHER + store] for store in stores})
        if name == CONSTANT:
            one_segment = {store: torch.ones_like(maps[store]) for store in stores}
            return self._encoder(picture, one_segment)
        return self._encoder(picture, dict.fromkeys(stores, maps[_SUPERPIXELS]))


def arguments(
    shown: Batch, other: Batch, superpixels: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """What a ``Predictor`` with a ``Changed`` encoder is called with.

    Args:
        shown: a tile as it is.
        other: the same tile with the maps of another image.
        superpixels: ``(1, H, W)`` ids of the picture that the tile's maps belong to.
    """
    assert other.structure_image is not None
    maps = {**shown.maps, **{_OTHER + store: levels for store, levels in other.maps.items()}}
    if superpixels is not None:
        maps[_SUPERPIXELS] = superpixels
    return shown.image, maps, torch.cat([picture_of(shown), other.structure_image], 1)


def picture_of(batch: Batch) -> Tensor:
    """The picture that the maps belong to, ``(B, 3, H, W)`` uint8."""
    return batch.image if batch.structure_image is None else batch.structure_image


class TilePairs(Dataset[tuple[Batch, Batch]]):
    """The samples of two data sets of the same tiles, side by side."""

    def __init__(self, first: TileDataset, second: TileDataset) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first)

    def __getitems__(self, keys: Sequence[SampleKey]) -> tuple[Batch, Batch]:
        """The batches of these samples."""
        return self.first.__getitems__(keys), self.second.__getitems__(keys)


def build_attribution_loader(
    config: Config, tile_set: TileSet, split: str, dist: DistContext, more_stores: Sequence[str]
) -> DataLoader[tuple[Batch, Batch]]:
    """Whole tiles of a split, each for itself, and beside each the maps of another one.

    Args:
        config: the recipe; ``structure.control`` is on or shuffled.
        tile_set: the prepared data set.
        split: which tiles.
        dist: this process.
        more_stores: those that are read of the tile itself as well.

    Raises:
        DataError: there are too few tiles to take the maps of another one.
    """
    labels = config.eval.labels
    tile_set.require_labels(split, labels)
    num_tiles, step = len(tile_set.split(split)), 1 if config.structure.control == "shuffled" else 0
    if num_tiles < step + 2:
        raise DataError(
            f"attribution shuffles maps between the images of a split: with structure.control="
            f"{config.structure.control} it takes {step + 2}, and '{split}' of {tile_set.root} has "
            f"{num_tiles}"
        )
    shown = whole_tiles(config, tile_set, split, step, [labels], more_stores)
    pairs = TilePairs(shown, whole_tiles(config, tile_set, split, step + 1, [labels]))
    return build_ordered_loader(pairs, range(dist.rank, num_tiles, dist.world_size), config, dist)


class SuperpixelMaps:
    """Superpixels of every image of a split: read from their store, or made on the way.

    Args:
        tile_set: the prepared data set.
        structure: the recipe's section, which holds their settings.
        split: which tiles.
        changes: without one that shows superpixels, there is nothing to do.
        build: makes the generator, for superpixels that cannot be read.

    Attributes:
        stores: the store that the loader is to read, or none.
        origin: where they come from, and why from there.
    """

    def __init__(
        self,
        tile_set: TileSet,
        structure: StructureConfig,
        split: str,
        changes: Sequence[Change],
        build: Callable[[], MapMaker],
    ) -> None:
        settings = structure.superpixels
        self.stores: tuple[str, ...] = ()
        self.origin = "not needed"
        self._generator: MapMaker | None = None
        if not any(c.name == SUPERPIXELS and c.unmeasured is None for c in changes):
            return
        wanted = {"generator": "superpixels", "settings": map_settings(settings)}
        images = {tile_id: tile_set.image_path(tile_id) for tile_id in tile_set.split(split)}
        try:
            check_store(tile_set.root, settings.store, wanted, images)
        except UserError as error:
            self.origin, self._generator = f"made on the way, for {error}", build()
        else:
            self.stores = (settings.store,)
            self.origin = f"read from {store_folder(tile_set.root, settings.store)}"

    def __call__(self, batch: Batch) -> Tensor | None:
        """Ids ``(1, H, W)`` int of the picture that a tile's maps belong to; None: not needed."""
        if self.stores:
            return batch.maps[self.stores[0]]
        if self._generator is None:
            return None
        (made,) = self._generator.generate_batch([picture_of(batch)[0].movedim(0, -1).numpy()])
        return torch.from_numpy(made.astype(np.int32)).unsqueeze(0)


def predictions(
    pairs: DataLoader[tuple[Batch, Batch]],
    predictors: Sequence[Predictor],
    superpixels: SuperpixelMaps,
    dist: DistContext,
) -> Iterator[tuple[Batch, list[Tensor]]]:
    """Predict every image as it is and with every change; each is read once.

    Args:
        pairs: this rank's images, of ``build_attribution_loader``.
        predictors: the network with its own encoder, then with one ``Changed`` for every change.
        superpixels: what may stand for segments.
        dist: this process.

    Yields:
        The image and its class indices ``(H, W)``, one for each predictor.
    """
    total = len(pairs) * len(predictors)
    settings = {"desc": "attribution", "unit": "image", "leave": False, "smoothing": 0}
    with tqdm(total=total, disable=not dist.is_main, **settings) as bar:
        for shown, other in pairs:
            own = shown.image, shown.maps, shown.structure_image
            both = arguments(shown, other, superpixels(shown))
            found = []
            for number, predictor in enumerate(predictors):
                found.append(predictor(*(both if number else own)))
                bar.update()
            yield shown, found
