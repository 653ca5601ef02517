"""Samples, batches of samples, and the data set that reads them from a prepared tile set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from datasets.encodings import StructureEncoder, shuffle_ids
from datasets.rasters import Kind, open_raster
from datasets.samplers import SampleKey
from datasets.structure_maps import map_path, read_map, store_folder
from datasets.tile_set import HISTOGRAM, RareClasses, TileSet, check_target
from datasets.transforms import Geometry, draw_color_factors, draw_id_key, jitter_colors
from utils.boxes import cell_grid
from utils.errors import DataError
from utils.geometry import resize_array_nearest

_STRIP_PX = 32  # columns of a turned array that are copied at a time
_MORE_LABELS = " labels"  # suffix of the names of further targets


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples of one size, members aligned pixel by pixel (or by cell), in their types on disk.

    A whole tile for evaluation is a batch of one.
    """

    tile_ids: tuple[str, ...]
    image: Tensor  # (B, 3, H, W) uint8 RGB
    target: Tensor  # (B, H, W) uint8 class index, 255 = ignore
    # store -> (B, H, W) uint16 segment ids or value levels, or (B, K, gh, gw) uint8 cells
    maps: dict[str, Tensor]
    structure_image: Tensor | None  # (B, 3, H, W) uint8, if the maps are another image's
    color_factors: Tensor  # (B, 3) brightness, contrast, saturation; 1 = unchanged
    present: Tensor  # (B, M) bool, modalities that the network is shown
    id_keys: Tensor | None = None  # (B, 3) int32, see datasets.encodings.shuffle_ids
    more_targets: tuple[Tensor, ...] = ()  # of further label kinds, like ``target``

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device, asynchronously from pinned memory."""
        return self._each(lambda x: x.to(device, non_blocking=True))

    def split(self, num_parts: int) -> list["Batch"]:
        """Return consecutive parts of equal size, as views."""
        size = len(self.tile_ids) // num_parts
        spans = [slice(first, first + size) for first in range(0, size * num_parts, size)]
        return [
            replace(self._each(itemgetter(span)), tile_ids=self.tile_ids[span]) for span in spans
        ]

    def pin_memory(self) -> "Batch":
        """Copy to page-locked memory (called by a loader for CUDA devices)."""
        return self._each(lambda x: x.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(
            self,
            image=change(self.image),
            target=change(self.target),
            maps={store: change(x) for store, x in self.maps.items()},
            structure_image=None if self.structure_image is None else change(self.structure_image),
            color_factors=change(self.color_factors),
            present=change(self.present),
            id_keys=None if self.id_keys is None else change(self.id_keys),
            more_targets=tuple(map(change, self.more_targets)),
        )


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample; members may still be views of memory-mapped files."""

    tile_id: str
    members: dict[str, np.ndarray]  # (H, W) or (H, W, 3), of one size, or cells; by name
    color_factors: np.ndarray  # (3,) float32
    present: np.ndarray  # (M,) bool
    id_key: np.ndarray | None  # (3,) int32


def collate(samples: Sequence[Sample]) -> Batch:
    """Copy samples of one size into a batch; no pixel is copied before."""
    first = samples[0]
    members = {name: _stack([s.members[name] for s in samples]) for name in first.members}
    image, target = members.pop("image"), members.pop("target")
    more_targets = [members.pop(name) for name in [*members] if name.endswith(_MORE_LABELS)]
    structure_image = members.pop("structure_image", None)
    keys = [sample.id_key for sample in samples if sample.id_key is not None]
    return Batch(
        tile_ids=tuple(sample.tile_id for sample in samples),
        image=image.movedim(-1, 1),
        target=target,
        maps=members,
        structure_image=None if structure_image is None else structure_image.movedim(-1, 1),
        color_factors=_stack([sample.color_factors for sample in samples]),
        present=_stack([sample.present for sample in samples]),
        id_keys=_stack(keys) if keys else None,
        more_targets=tuple(more_targets),
    )


def _stack(arrays: Sequence[np.ndarray]) -> Tensor:
    """Copy arrays of one shape into a tensor, ``(B, *shape)``."""
    dtype = torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype
    tensor = torch.empty((len(arrays), *arrays[0].shape), dtype=dtype)
    if get_worker_info() is not None:  # shared with the main process, which then copies nothing
        tensor.share_memory_()
    for place, array in zip(tensor.numpy(), arrays, strict=True):
        _copy(array, place)
    return tensor


def _copy(array: np.ndarray, place: np.ndarray) -> None:
    """Copy an array.

    A transposed array is copied in strips and by channel, which is twice as fast: its rows stay in
    the cache.
    """
    if array.ndim == 1 or array.strides[1:] == place.strides[1:]:
        place[...] = array
        return
    channels = [np.s_[..., i] for i in range(3)] if array.ndim == 3 else [np.s_[...]]
    for left in range(0, array.shape[1], _STRIP_PX):
        strip = np.s_[:, left : left + _STRIP_PX]
        for channel in channels:
            place[strip][channel] = array[strip][channel]


def prepare_inputs(batch: Batch, encoder: StructureEncoder) -> tuple[tuple[Tensor, ...], Tensor]:
    """Compute the inputs of network and loss, on the batch's device.

    Returns:
        Inputs of the network, channels-last: image ``(B, 3, H, W)`` in [0, 1] with jittered
        colours, structure ``(B, S, H, W)`` in [0, 1], and any cells ``(B, K, gh, gw)``; and target
        ``(B, H, W)`` int64.
    """
    image = jitter_colors(batch.image.float() / 255, batch.color_factors)
    other = None if batch.structure_image is None else batch.structure_image.float() / 255
    maps = batch.maps
    if batch.id_keys is not None:
        keys, segments = batch.id_keys, encoder.segment_stores
        maps = maps | {store: shuffle_ids(maps[store], keys) for store in segments}
    inputs = (image, *encoder(image, maps, other, batch.present))
    last = tuple(x.contiguous(memory_format=torch.channels_last) for x in inputs)
    return last, batch.target.long()


@dataclass(kw_only=True, eq=False)
class TileDataset(Dataset[Batch]):
    """Tiles with their targets and structure maps."""

    tile_set: TileSet
    tile_ids: Sequence[str]
    stores: Sequence[str]  # modality stores to read; empty for ``control: off``
    cell_px: Mapping[str, int] = field(default_factory=dict)  # by store, those that hold cells
    labels: Sequence[str] = ("full",)  # kinds of the targets; the first is the batch's ``target``
    shuffled: bool = False  # give every tile the maps of another one (control experiment)
    partner_step: int = 1  # without ``geometry``, offset of the other tile in ``tile_ids``
    geometry: Geometry | None = None  # zoom, crop and flips for training; None: whole tiles
    color_jitter: float = 0.0  # largest relative change of brightness, contrast and saturation
    available: Sequence[bool] = (True,)  # by modality of the recipe; False: absent everywhere
    dropout: float = 0.0  # probability that an available modality is dropped; one always stays
    shuffle_ids: bool = False  # draw a permutation of the segment ids for every sample
    rare_class_share: float = 0.0  # probability of a crop around a pixel of a drawn class

    def __post_init__(self) -> None:
        if self.shuffled and len(self.tile_ids) < 2:
            raise DataError("structure.control=shuffled needs at least two tiles in every split")
        self._targets = {"target": self.labels[0]}
        self._targets |= {kind + _MORE_LABELS: kind for kind in self.labels[1:]}
        if self.rare_class_share > 0:
            num_classes = len(self.tile_set.classes)
            self._rare = RareClasses(self.tile_set.root, self.tile_ids, num_classes)

    def __len__(self) -> int:
        return len(self.tile_ids)

    def __getitem__(self, key: SampleKey) -> Batch:
        """Return a batch of one; it depends on the key alone, not on process or time."""
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[SampleKey]) -> Batch:
        """Return the batch of these samples; a loader calls this and need not collate."""
        return collate([self._read(key) for key in keys])

    def _read(self, key: SampleKey) -> Sample:
        rng = np.random.default_rng(key.seed)
        index, class_index = key.index, None
        if self.rare_class_share > 0 and rng.random() < self.rare_class_share:
            index, class_index = self._rare.draw(rng)
        tile_id = self.tile_ids[index]
        members = self._open(tile_id, self._partner(index, rng) if self.shuffled else tile_id)
        if self.geometry is not None:
            target, shown = members["target"], None
            if class_index is not None:
                shown = self._draw_pixel(tile_id, target, class_index, rng)
            crop = self.geometry.draw((target.shape[0], target.shape[1]), rng, shown)
            members = {n: self.geometry.cut(n, member, crop) for n, member in members.items()}
        for name, kind in self._targets.items():
            path = self.tile_set.target_path(tile_id, kind)
            check_target(path, members[name], len(self.tile_set.classes))
        return Sample(
            tile_id=tile_id,
            members=members,
            color_factors=draw_color_factors(self.color_jitter, rng),
            present=self._draw_present(rng),
            id_key=draw_id_key(rng) if self.shuffle_ids else None,
        )

    def _open(self, tile_id: str, source: str) -> dict[str, np.ndarray]:
        """Open the members of a tile, memory-mapped; its maps are those of tile ``source``."""
        paths: dict[str, tuple[Path, Kind]] = {"image": (self.tile_set.image_path(tile_id), "RGB")}
        for name, kind in self._targets.items():
            paths[name] = (self.tile_set.target_path(tile_id, kind), "8-bit")
        for store in self.stores:
            if store not in self.cell_px:
                folder = store_folder(self.tile_set.root, store)
                paths[store] = (map_path(folder, source), "16-bit")
        if self.shuffled:
            paths["structure_image"] = (self.tile_set.image_path(source), "RGB")
        members = {name: open_raster(*path) for name, path in paths.items()}
        size = members["image"].shape[:2]
        for name, member in members.items():
            if member.shape[:2] == size:
                continue
            if not self.shuffled or name in self._targets:
                raise DataError(
                    f"tile '{tile_id}' of {self.tile_set.root}: image is {size} and {name} "
                    f"{member.shape[:2]} (height, width); prepare or generate it again"
                )
            members[name] = resize_array_nearest(member, (size[0], size[1]))
        return members | {store: self._open_cells(store, source, size) for store in self.cell_px}

    def _open_cells(self, store: str, source: str, size: tuple[int, ...]) -> np.ndarray:
        """Open a map of cells, ``(K, gh, gw)``; those of another tile are stretched over this one.

        They have no size in pixels, so a grid of any rows and columns covers the tile.
        """
        path = map_path(store_folder(self.tile_set.root, store), source)
        cells = read_map(path, "cells")
        expected = cell_grid(size, self.cell_px[store])
        if not self.shuffled and cells.shape[1:] != expected:
            raise DataError(
                f"{path} has {cells.shape[1:]} cells and its image {expected} (rows, columns); "
                "prepare or generate it again"
            )
        return cells if self.geometry is not None else np.ascontiguousarray(cells)

    def _draw_pixel(
        self, tile_id: str, target: np.ndarray, class_index: int, rng: np.random.Generator
    ) -> tuple[int, int]:
        """Draw row and column of a pixel of a class."""
        places = np.flatnonzero(target == class_index)
        if not places.size:
            raise DataError(
                f"{self.tile_set.target_path(tile_id)} has no pixel of class {class_index}, "
                f"contrary to {HISTOGRAM}; prepare the data set again"
            )
        row, column = divmod(int(rng.choice(places)), target.shape[1])
        return row, column

    def _draw_present(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the modalities that the sample keeps, independently; at least one, ``(M,)`` bool."""
        available = np.array(self.available)
        present = available & (rng.random(len(available)) >= self.dropout)
        if not present.any():
            present[rng.choice(np.flatnonzero(available))] = True
        return present

    def _partner(self, index: int, rng: np.random.Generator) -> str:
        """Return another tile: a random one for training, a fixed one for evaluation."""
        step = self.partner_step if self.geometry is None else int(rng.integers(1, len(self)))
        return self.tile_ids[(index + step) % len(self)]
