"""Encodings of segment ids, values and cells as inputs of the structure branch.

Encodings are computed on the device from the map of the network's window, after all geometric
transforms, so boundaries are rebuilt rather than resized. Segment ids are arbitrary: every encoding
but ``color_by_id`` is invariant to permutations of the ids. A pixel of id 0 has no segment and is
treated as a region of its own.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from configs.schema import GENERATORS, FeaturesConfig, StructureConfig
from utils.boxes import cell_grid

DISTANCE_LIMIT_PX = 16
ABSENT = 0.5  # value of an absent modality; the stem's fixed normalisation makes it 0
_NUM_IDS = 1 << 16  # ids are 16 bit on disk; a fixed table size avoids a synchronisation


def mean_color(image: Tensor, ids: Tensor) -> Tensor:
    """Return the mean colour of each pixel's segment; pixels of id 0 keep their own colour.

    Args:
        image: ``(B, 3, H, W)`` in [0, 1], like the result.
        ids: ``(B, H, W)`` int, 0..65535.
    """
    slot = _slots(ids)
    # Sum the colours of each segment, divide by its area, and look the mean up for each pixel.
    flat = image.movedim(1, -1).reshape(-1, 3)
    total = flat.new_zeros(len(ids) * _NUM_IDS, 3).index_add_(0, slot, flat)
    mean = (total / _areas(slot, len(ids)).clamp(min=1).unsqueeze(1))[slot]
    mean = mean.view(*ids.shape, 3).movedim(-1, 1)
    return torch.where(ids.unsqueeze(1) == 0, image, mean)


def boundary(image: Tensor, ids: Tensor) -> Tensor:
    """Return 1 where one of the 4 neighbours of a pixel has another id, ``(B, 1, H, W)``."""
    edge = torch.zeros_like(ids, dtype=torch.bool)
    down, right = ids[:, 1:] != ids[:, :-1], ids[:, :, 1:] != ids[:, :, :-1]
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    edge[:, :, 1:] |= right
    edge[:, :, :-1] |= right
    return edge.unsqueeze(1).to(image.dtype)


def boundary_distance(image: Tensor, ids: Tensor) -> Tensor:
    """Return the chessboard distance to a boundary, clipped at 16 px, / 16, ``(B, 1, H, W)``."""
    # Each dilation reaches the pixels one step further away; count the steps before a pixel.
    reached = boundary(image, ids)
    distance = 1 - reached
    for _ in range(DISTANCE_LIMIT_PX - 1):
        reached = F.max_pool2d(reached, 3, stride=1, padding=1)
        distance = distance + 1 - reached
    return distance / DISTANCE_LIMIT_PX


def log_area(image: Tensor, ids: Tensor) -> Tensor:
    """Return ``log(area) / log(H * W)`` of each pixel's segment, in [0, 1], ``(B, 1, H, W)``."""
    slot = _slots(ids)
    area = _areas(slot, len(ids))[slot].view(ids.shape)
    area = torch.where(ids == 0, 1, area).to(image.dtype)
    return (area.log() / max(math.log(ids[0].numel()), 1.0)).unsqueeze(1)


def value(image: Tensor, levels: Tensor) -> Tensor:
    """Return levels (0 = no data, 1..65535) scaled to [0, 1], ``(B, 1, H, W)``; 0.5 = no data."""
    scaled = (levels.to(image.dtype) - 1) / (_NUM_IDS - 2)
    return torch.where(levels == 0, ABSENT, scaled).unsqueeze(1)


def components(cells: Tensor) -> Tensor:
    """Return levels (0 = no data, 1..255) scaled to [0, 1], of any shape; 0.5 = no data."""
    return cells.float().sub_(1).div_(254).masked_fill_(cells == 0, ABSENT)


def color_by_id(image: Tensor, ids: Tensor) -> Tensor:
    """Return the paper's coloured region map, ``(B, 3, H, W)`` in [0, 1]: black where the id is 0.

    The colour is a hash of the id, so it depends on the order of the ids. On disk they are in
    canonical order, so colours are the same from run to run.
    """
    code = ids.long() * 2654435761 % (1 << 32)  # Knuth's multiplicative hash
    code = (code ^ (code >> 15)) * 2246822519 % (1 << 32)
    channels = torch.stack([code >> shift & 255 for shift in (0, 8, 16)], 1)
    return (channels * (ids > 0).unsqueeze(1)).to(image.dtype) / 255


def shuffle_ids(ids: Tensor, keys: Tensor) -> Tensor:
    """Permute the segment ids of every sample by a bijection of 1..65535; 0 stays 0.

    Of all encodings it changes ``color_by_id`` alone, to other random colours.

    Args:
        ids: ``(B, H, W)`` int, 0..65535; the result is int32.
        keys: ``(B, 3)`` int32 odd numbers below 2^15, which select the bijection.
    """
    ids = ids.int()
    for key in keys.view(len(ids), -1, 1, 1).unbind(1):
        ids = ids * key & _NUM_IDS - 1  # an odd factor has an inverse; no product is over 2^31
        ids = ids ^ ids >> 7  # move high bits to where the next product spreads them
    return ids


def _slots(ids: Tensor) -> Tensor:
    """Return indices ``(B*H*W,)`` into a table of ``B * 65536`` segments."""
    offset = torch.arange(len(ids), device=ids.device).view(-1, 1, 1) * _NUM_IDS
    return (ids + offset).flatten()


def _areas(slot: Tensor, batch_size: int) -> Tensor:
    return torch.bincount(slot, minlength=batch_size * _NUM_IDS)


ENCODINGS: dict[str, tuple[int, Callable[[Tensor, Tensor], Tensor]]] = {
    "mean_color": (3, mean_color),
    "boundary": (1, boundary),
    "boundary_distance": (1, boundary_distance),
    "log_area": (1, log_area),
    "color_by_id": (3, color_by_id),
}
_ALL = {**ENCODINGS, "value": (1, value)}  # including that of sensors and depth


class StructureEncoder:
    """Encoder of all modalities of a recipe: maps of pixels as channels, maps of cells as they are.

    A modality that is absent, by the recipe or in a sample, has 0.5 in all its channels. Without
    any map of pixels, the image takes their place.

    Attributes:
        num_channels: channels of the pixels, including absent modalities.
        num_components: K of each modality of cells, including absent ones.
        places: of each modality in the result, by name: its channels of the pixels, or the index
            of its cells; empty if ``control`` is off.
        pictures: for each modality of pixels, the three channels that are the input of its frozen
            ViT: those of its first encoding, a single one three times.
        stores: names of the modality stores to be read.
        segment_stores: those of them that hold segment ids.
        value_stores: those of them that hold values.
        cell_px: by store, those of them that hold cells.
        available: for each modality of the recipe, False if it is absent.
    """

    def __init__(self, config: StructureConfig) -> None:
        self.control = config.control
        self.available = (True,) * len(config.modalities)
        self.places: dict[str, slice | int] = {}
        # For each modality its store, or None if it is absent, and its encodings.
        self._modalities: list[tuple[str | None, tuple[str, ...]]] = []
        self.stores: tuple[str, ...] = ()
        self.segment_stores: tuple[str, ...] = ()
        self.value_stores: tuple[str, ...] = ()
        self.cell_px: dict[str, int] = {}
        self.pictures: tuple[tuple[int, int, int], ...] = ((0, 1, 2),)
        self.num_components: tuple[int, ...] = ()
        self._cell_sides: tuple[int, ...] = ()
        self.num_channels = 3
        if config.control == "off":
            return
        self.available = tuple(name not in config.absent for name in config.modalities)
        self.num_channels, self.pictures = 0, ()
        for modality, available in zip(config.modalities, self.available, strict=True):
            store, encodings = modality, ("value",)
            settings = getattr(config, modality) if modality in GENERATORS else None
            if settings is not None:
                store, encodings = settings.store, settings.encodings
            self._modalities.append((store if available else None, encodings))
            if isinstance(settings, FeaturesConfig):
                self.num_components += (settings.num_components,)
                self._cell_sides += (settings.cell_px,)
                self.places[modality] = len(self.num_components)
                self.cell_px |= {store: settings.cell_px} if available else {}
                continue
            first, is_color = self.num_channels, _ALL[encodings[0]][0] == 3
            self.pictures += ((first, first + 1, first + 2) if is_color else (first,) * 3,)
            self.num_channels += sum(_ALL[name][0] for name in encodings)
            self.places[modality] = slice(first, self.num_channels)
        self.num_channels = self.num_channels or 3
        self.stores = tuple(store for store, _ in self._modalities if store is not None)
        self.segment_stores = config.segment_stores()
        others = {*self.segment_stores, *self.cell_px}
        self.value_stores = tuple(store for store in self.stores if store not in others)

    @property
    def shown(self) -> tuple[int, int, int]:
        """Return the channels that pictures of the structure show: those of its first modality."""
        return self.pictures[0] if self.pictures else (0, 1, 2)

    def shapes(self, size: tuple[int, int]) -> list[tuple[int, ...]]:
        """Return the shapes of the network's inputs for a window of a size, without the batch."""
        grids = [cell_grid(size, side) for side in self._cell_sides]
        cells = [(num, *grid) for num, grid in zip(self.num_components, grids, strict=True)]
        return [(3, *size), (self.num_channels, *size), *cells]

    def segments(self, maps: dict[str, Tensor]) -> Tensor | None:
        """Return ids ``(B, H, W)`` int32 of the image's first segment map, or None without one."""
        has_own = self.control == "on" and self.segment_stores
        return maps[self.segment_stores[0]].int() if has_own else None

    def __call__(
        self,
        image: Tensor,
        maps: dict[str, Tensor],
        structure_image: Tensor | None = None,
        present: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Encode a batch.

        Args:
            image: ``(B, 3, H, W)`` in [0, 1].
            maps: ids or levels ``(B, H, W)`` int, or cells ``(B, K, gh, gw)``, by store; may be
                empty if ``control`` is off.
            structure_image: image of the maps, if that is another one (shuffled).
            present: ``(B, M)`` bool, False for modalities dropped in a sample; None: all present.

        Returns:
            The structure inputs of the network, all in [0, 1]: ``(B, num_channels, H, W)``, the
            image itself where no map of pixels is; and ``(B, K, gh, gw)`` for each modality of
            cells.
        """
        if self.control == "off":
            return (image,)
        source = image if structure_image is None else structure_image
        pixels: list[Tensor] = []
        cells: list[Tensor] = []
        for index, (store, encodings) in enumerate(self._modalities):
            if encodings == ("components",):
                num, side = self.num_components[len(cells)], self._cell_sides[len(cells)]
                grid = cell_grid(image.shape[-2:], side)
                layers = [image.new_full((len(image), num, *grid), ABSENT)]
                if store is not None:
                    layers = [components(maps[store])]
            elif store is not None:  # torch has no arithmetic for uint16
                layers = [_ALL[name][1](source, maps[store].int()) for name in encodings]
            else:
                absent = torch.full_like(source[:, :1], ABSENT)
                layers = [absent.expand(-1, _ALL[name][0], -1, -1) for name in encodings]
            if present is not None:
                is_present = present[:, index].view(-1, 1, 1, 1)
                layers = [torch.where(is_present, layer, ABSENT) for layer in layers]
            (cells if encodings == ("components",) else pixels).extend(layers)
        return (torch.cat(pixels, 1) if pixels else image, *cells)
