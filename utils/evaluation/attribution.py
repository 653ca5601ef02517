"""Attribution: ablations of the structure input at test time, counted against unchanged maps.

Integers are counted per image and added over images and ranks, so the result does not depend on how
images are distributed. The first prediction of an image uses its unchanged maps; all others are
compared with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from configs.schema import GENERATORS, IGNORE_INDEX, Config, StructureConfig
from datasets.dataset import Batch, TileDataset
from datasets.encodings import ABSENT, StructureEncoder
from datasets.loaders import build_ordered_loader, whole_tiles
from datasets.samplers import SampleKey
from datasets.structure_maps import (
    SENSOR,
    check_store,
    map_kind,
    map_settings,
    store_folder,
)
from datasets.tile_set import TileSet
from models.structure.build import build_generator
from models.structure.generator import StructureGenerator
from utils.distributed import DistContext
from utils.errors import ConfigError, DataError, UserError
from utils.evaluation.bootstrap import Difference, Intervals, bootstrap, differences, sample
from utils.evaluation.metrics import Scores, confusion_matrix, scores
from utils.evaluation.setup import EvaluationSetup


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Replacement of the structure input of one modality, or of all of them."""

    name: str  # zeroed, shuffled, constant or superpixels
    modalities: tuple[str, ...]  # one, or all at once
    unmeasured: str | None = None  # reason why it is not measured

    @property
    def subject(self) -> str:
        """Return the name of the modality, or ``all modalities``."""
        return self.modalities[0] if len(self.modalities) == 1 else "all modalities"


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Effect of an ablation: differences in -1..1, fractions in 0..1, nan where undefined."""

    ablation: Ablation
    confusion: Tensor  # (C, C) int64, under the ablation
    # Under the ablation minus with unchanged maps: the mIoU, then the IoU of each class.
    differences: list[Difference]
    moved: float  # fraction of the counted pixels predicted as another class
    moved_by_class: tuple[float, ...]  # the same fraction for the target pixels of each class


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Results of an attribution: everything that a report states."""

    num_sources: int  # source images with a counted pixel, the units of the bootstrap
    left_out: tuple[str, ...]  # classes excluded from the means
    confusion: Tensor  # (C, C) int64, with unchanged maps
    scores: Scores  # with unchanged maps
    intervals: Intervals | None
    ablations: tuple[Ablation, ...]  # all, in order
    effects: tuple[Effect, ...]  # of the measured ones, in the same order


class AblationCounts:
    """Counts over the images of this rank.

    Args:
        classes: names of the C classes.
        source_of: source image of each tile of the split, of all ranks.
        ablations: in the order of the predictions, in which unmeasured ones have no place.
    """

    def __init__(
        self, classes: Sequence[str], source_of: Mapping[str, str], ablations: Sequence[Ablation]
    ) -> None:
        place = {source: number for number, source in enumerate(sorted({*source_of.values()}))}
        self._classes = tuple(classes)
        self._place = {tile: place[source] for tile, source in source_of.items()}
        self._ablations = tuple(ablations)
        num_predictions, size = 1 + len(measured(ablations)), len(classes)
        self._confusions = torch.zeros(num_predictions, len(place), size, size, dtype=torch.int64)
        self._moved = torch.zeros(num_predictions, size, dtype=torch.int64)  # by target class

    def add(self, tile_id: str, target: Tensor, predictions: Sequence[Tensor]) -> None:
        """Count a tile; all class indices are ``(H, W)`` uint8, in the target 255 = ignored.

        The first prediction is the one with unchanged maps, then follows each measured ablation.
        """
        num_classes, counted = len(self._classes), target != IGNORE_INDEX
        for number, prediction in enumerate(predictions):
            counts = confusion_matrix(target, prediction, num_classes)
            self._confusions[number, self._place[tile_id]] += counts
            moved = target[counted & (prediction != predictions[0])]
            self._moved[number] += torch.bincount(moved.long(), minlength=num_classes)

    def findings(self, dist: DistContext, left_out: Sequence[str] = ()) -> Attribution:
        """Return the results over all ranks; the means exclude ``left_out``. Call on all ranks."""
        confusions, moved = (
            dist.sum(counts.to(dist.device)).cpu() for counts in (self._confusions, self._moved)
        )
        without = [self._classes.index(name) for name in left_out]
        samples = [sample(each.unsqueeze(0).numpy(), without) for each in confusions]
        total, moved = confusions.sum(1), moved.double()
        support = total[0].sum(1)  # target pixels of each class
        effects = tuple(
            Effect(
                ablation=ablation,
                confusion=total[number],
                differences=differences(samples[0], samples[number]),
                moved=(moved[number].sum() / support.sum()).item(),
                moved_by_class=tuple((moved[number] / support).tolist()),
            )
            for number, ablation in enumerate(measured(self._ablations), start=1)
        )
        return Attribution(
            num_sources=samples[0].num_sources,
            left_out=tuple(left_out),
            confusion=total[0],
            scores=scores(total[0], without),
            intervals=bootstrap(confusions[0].numpy(), without),
            ablations=self._ablations,
            effects=effects,
        )


ZEROED, SHUFFLED, CONSTANT, SUPERPIXELS = "zeroed", "shuffled", "constant", "superpixels"
# Maps without an ablation, and the source of shuffled maps, by structure.control.
UNCHANGED = {
    "on": "each image with its own maps; shuffled: with those of the next image of the split",
    "shuffled": "each image with the maps of the next one; shuffled: with those of the one after",
}
_OTHER = "of the other image: "  # prefix of the keys of the other image's maps
_SUPERPIXELS = "superpixels of the image"  # key of the map that replaces its segments


def measured(ablations: Sequence[Ablation]) -> list[Ablation]:
    """Return the ablations that are measured, in order."""
    return [ablation for ablation in ablations if ablation.unmeasured is None]


def ablations_of(structure: StructureConfig, source: str) -> tuple[Ablation, ...]:
    """Return the ablations of each present modality, and of all modalities together.

    Raises:
        ConfigError: the network gets no structure; ``source`` is the path of its checkpoint.
    """
    if structure.control == "off":
        raise ConfigError(
            f"{source}: structure.control is off, so the second branch gets the RGB image and "
            "there is no structure to ablate; use a checkpoint trained with structure.control=on"
        )
    ablations = []
    for name in structure.present():
        kind = map_kind(name if name in GENERATORS else SENSOR)
        reasons: dict[str, str | None] = {}
        if kind != "segments":  # the middle of the levels is encoded as ABSENT is
            reasons = {CONSTANT: "same as zeroed", SUPERPIXELS: f"holds {kind}"}
        if name == "superpixels":
            reasons[SUPERPIXELS] = "is superpixels already"
        ablations += [
            Ablation(name=replacement, modalities=(name,), unmeasured=reasons.get(replacement))
            for replacement in (ZEROED, SHUFFLED, CONSTANT, SUPERPIXELS)
        ]
    if len(structure.present()) > 1:
        ablations.append(Ablation(name=ZEROED, modalities=structure.present()))
    return tuple(ablations)


class AblatedEncoder(StructureEncoder):
    """Structure encoder that replaces the channels of the modalities of an ablation.

    Its input is that of ``ablation_inputs``: maps of the image, of another image and superpixels,
    and as ``structure_image`` two pictures, ``(B, 6, H, W)``: the one that the image's maps belong
    to, and that of the other image's maps.
    """

    def __init__(self, structure: StructureConfig, ablation: Ablation) -> None:
        super().__init__(structure)
        self._ablation = ablation
        self.value_stores += tuple(_OTHER + store for store in self.value_stores)
        self.cell_px |= {_OTHER + store: side for store, side in self.cell_px.items()}

    def __call__(
        self,
        image: Tensor,
        maps: dict[str, Tensor],
        structure_image: Tensor | None = None,
        present: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Encode a batch; inputs of other modalities are those of the plain encoder."""
        assert structure_image is not None
        picture, other = structure_image.split(3, 1)
        structure = [*super().__call__(image, maps, picture, present)]
        if self._ablation.name == ZEROED:
            replaced = tuple(torch.full_like(each, ABSENT) for each in structure)
        elif self._ablation.name == SHUFFLED:
            of_other = {store: maps[_OTHER + store] for store in self.stores}
            replaced = super().__call__(other, of_other)
        elif self._ablation.name == CONSTANT:
            one_segment = {store: torch.ones_like(maps[store]) for store in self.stores}
            replaced = super().__call__(picture, one_segment)
        else:
            pixels = [store for store in self.stores if store not in self.cell_px]
            replaced = super().__call__(picture, maps | dict.fromkeys(pixels, maps[_SUPERPIXELS]))
        for modality in self._ablation.modalities:
            place = self.places[modality]
            if isinstance(place, int):  # its cells
                structure[place] = replaced[place]
            else:
                structure[0][:, place] = replaced[0][:, place]
        return tuple(structure)


def ablation_inputs(
    own: Batch, other: Batch, superpixels: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Return the arguments for a ``Predictor`` with an ``AblatedEncoder``.

    ``other`` is the same tile with the maps of another image; ``superpixels`` are ``(1, H, W)`` ids
    of the picture that the tile's own maps belong to.
    """
    assert other.structure_image is not None
    maps = {**own.maps, **{_OTHER + store: levels for store, levels in other.maps.items()}}
    if superpixels is not None:
        maps[_SUPERPIXELS] = superpixels
    return own.image, maps, torch.cat([_picture_of(own), other.structure_image], 1)


def _picture_of(batch: Batch) -> Tensor:
    """Return the image that the maps belong to, ``(B, 3, H, W)`` uint8."""
    return batch.image if batch.structure_image is None else batch.structure_image


class _TilePairs(Dataset[tuple[Batch, Batch]]):
    """Samples of two data sets over the same tiles, side by side."""

    def __init__(self, *datasets: TileDataset) -> None:
        self._datasets = datasets

    def __getitems__(self, keys: Sequence[SampleKey]) -> tuple[Batch, ...]:
        return tuple(dataset.__getitems__(keys) for dataset in self._datasets)


def build_attribution_loader(
    config: Config, tile_set: TileSet, split: str, dist: DistContext, more_stores: Sequence[str]
) -> DataLoader[tuple[Batch, Batch]]:
    """Build a loader of single tiles, each beside the same tile with the maps of another one.

    ``structure.control`` is on or shuffled. ``more_stores`` are read for the tile itself.

    Raises:
        DataError: the split has too few tiles to take the maps of another one.
    """
    labels = config.eval.labels
    tile_set.require_labels(split, labels)
    num_tiles, step = len(tile_set.split(split)), 1 if config.structure.control == "shuffled" else 0
    if num_tiles < step + 2:
        raise DataError(
            f"attribution shuffles maps among the images of a split and needs {step + 2} of them "
            f"with structure.control={config.structure.control}; '{split}' of {tile_set.root} has "
            f"{num_tiles}"
        )
    own = whole_tiles(config, tile_set, split, step, [labels], more_stores)
    pairs = _TilePairs(own, whole_tiles(config, tile_set, split, step + 1, [labels]))
    return build_ordered_loader(pairs, range(dist.rank, num_tiles, dist.world_size), config, dist)


class SuperpixelMaps:
    """Superpixels of the images of a split, read from their store or computed on the fly.

    Nothing is read or computed unless one of the ``ablations`` shows superpixels.

    Attributes:
        stores: the store that the loader has to read, or none.
        origin: where the superpixels come from, and why.
    """

    def __init__(
        self,
        tile_set: TileSet,
        structure: StructureConfig,
        split: str,
        ablations: Sequence[Ablation],
        device: torch.device,
    ) -> None:
        settings = structure.superpixels
        self.stores: tuple[str, ...] = ()
        self.origin = "not needed"
        self._generator: StructureGenerator | None = None
        if not any(ablation.name == SUPERPIXELS for ablation in measured(ablations)):
            return
        wanted = {"generator": "superpixels", "settings": map_settings(settings)}
        images = {tile_id: tile_set.image_path(tile_id) for tile_id in tile_set.split(split)}
        try:
            check_store(tile_set.root, settings.store, wanted, images)
        except UserError as error:
            self.origin = f"computed on the fly, because {error}"
            self._generator = build_generator("superpixels", settings, device)
        else:
            self.stores = (settings.store,)
            self.origin = f"read from {store_folder(tile_set.root, settings.store)}"

    def __call__(self, batch: Batch) -> Tensor | None:
        """Return ids ``(1, H, W)`` int of the picture of a tile's maps; None: not needed."""
        if self.stores:
            return batch.maps[self.stores[0]]
        if self._generator is None:
            return None
        ids = self._generator.generate(_picture_of(batch)[0].movedim(0, -1).numpy())
        return torch.from_numpy(ids.astype(np.int32)).unsqueeze(0)


def measure_ablations(
    setup: EvaluationSetup,
    split: str,
    ablations: Sequence[Ablation],
    pairs: DataLoader[tuple[Batch, Batch]],
    superpixels: SuperpixelMaps,
    dist: DistContext,
) -> Attribution:
    """Predict each tile with unchanged maps and under each ablation. Call on all ranks."""
    ablated = [
        replace(setup.predictor, encoder=AblatedEncoder(setup.config.structure, ablation))
        for ablation in measured(ablations)
    ]
    counts = AblationCounts(setup.tile_set.classes, setup.sources(split), ablations)
    off = not dist.is_main
    for own, other in tqdm(pairs, desc="attribution", unit="tile", leave=False, disable=off):
        inputs = ablation_inputs(own, other, superpixels(own))
        unchanged = setup.predictor(own.image, own.maps, own.structure_image)
        predicted = [unchanged, *(predictor(*inputs) for predictor in ablated)]
        counts.add(own.tile_ids[0], own.target[0], predicted)
    return counts.findings(dist, setup.config.eval.mean_without)
