"""The recipe's ``structure`` section: which maps the second branch gets, and how they are made.

A class may have ``problems()``, see ``configs.schema``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

Problems = Iterator[tuple[str, str]]
Encoding = Literal["mean_color", "boundary", "boundary_distance", "log_area", "color_by_id"]
GENERATORS = ("superpixels", "sam", "depth_anything")  # their maps are made of the RGB image
VALUE_GENERATORS = ("depth_anything",)  # those whose maps hold values, not segment ids


@dataclass(frozen=True, kw_only=True)
class SuperpixelsConfig:
    """SLIC superpixels: no weights needed, the baseline a foundation model has to beat."""

    join_tiles: ClassVar[bool] = False  # a superpixel is as small at the edge of a tile as inside

    store: str = "superpixels"  # folder below modalities/ that holds the maps
    encodings: tuple[Encoding, ...] = ("mean_color", "boundary")  # what the network sees
    segment_size_px: int = 16  # side of the initial grid cells
    compactness: float = 10.0  # weight of position against CIELAB colour
    num_iterations: int = 5  # k-means rounds
    min_area_share: float = 0.25  # smaller pieces, as a share of a cell, join a neighbour

    def problems(self) -> Problems:
        """Values out of range."""
        if self.segment_size_px < 4:
            yield "segment_size_px", "must be 4 or more"
        if self.compactness <= 0:
            yield "compactness", "must be above 0"
        if self.num_iterations < 1:
            yield "num_iterations", "must be 1 or more"
        if not 0 <= self.min_area_share <= 1:
            yield "min_area_share", "must be between 0 and 1"


@dataclass(frozen=True, kw_only=True)
class SamConfig:
    """Segment Anything, everything mode. Names and defaults are those of the package."""

    store: str = "sam"  # folder below modalities/ that holds the maps
    encodings: tuple[Encoding, ...] = ("color_by_id",)  # the paper's coloured region map
    model_type: Literal["vit_b", "vit_l", "vit_h"] = "vit_h"
    # Path of the weights file; null: the official file in weights/; 'random' for tests and timing.
    checkpoint: str | None = None
    points_per_side: int = 32  # prompts along each side of the image
    points_per_batch: int = 64  # prompts computed together: memory, not result
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    images_per_batch: int = 4  # per encoder call on a GPU; one at a time on the CPU
    # auto: bf16 on a CUDA device, fp32 on the CPU; fp32: the same maps on every device
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    window_px: int = 1024  # a larger image is segmented window by window, and joined
    window_overlap_px: int = 128  # shared by neighbouring windows
    join_tiles: bool = True  # overlapping tiles of one source image share their ids

    def problems(self) -> Problems:
        """Values out of range."""
        for key in ("points_per_side", "points_per_batch"):
            if getattr(self, key) < 1:
                yield key, "must be 1 or more"
        yield from _window_problems(self)


@dataclass(frozen=True, kw_only=True)
class DepthAnythingConfig:
    """Depth Anything: relative inverse depth (near is large) of one RGB image."""

    encodings: ClassVar[tuple[str, ...]] = ("value",)  # there is no other

    store: str = "depth_anything"  # folder below modalities/ that holds the maps
    # v2_small is Apache-2.0; v2_base and v2_large are CC-BY-NC-4.0.
    model_type: Literal["v2_small", "v2_base", "v2_large", "v1_small", "v1_base", "v1_large"] = (
        "v2_small"
    )
    # Path of the weights file; null: the official file in weights/; 'random' for tests and timing.
    checkpoint: str | None = None
    input_size_px: int = 518  # shorter side of what the network sees, in multiples of 14
    images_per_batch: int = 4  # per network call on a GPU; one at a time on the CPU
    # auto: bf16 on a CUDA device, fp32 on the CPU; fp32: the same maps on every device
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    window_px: int = 1024  # the depth of a larger image is found window by window, and joined
    window_overlap_px: int = 128  # shared by neighbouring windows
    join_tiles: bool = True  # overlapping tiles of one source image share their scale

    def problems(self) -> Problems:
        """Values out of range."""
        if self.input_size_px < 14:
            yield "input_size_px", "must be 14 or more"
        yield from _window_problems(self)


def _window_problems(config: SamConfig | DepthAnythingConfig) -> Problems:
    if config.images_per_batch < 1:
        yield "images_per_batch", "must be 1 or more"
    if config.window_px < 64:
        yield "window_px", "must be 64 or more"
    if not 1 <= config.window_overlap_px <= config.window_px // 2:
        yield "window_overlap_px", f"must be 1 to half of window_px ({config.window_px // 2})"


GeneratorConfig = SuperpixelsConfig | SamConfig | DepthAnythingConfig


@dataclass(frozen=True, kw_only=True)
class StructureConfig:
    """Which structure maps the second branch gets, and how they are encoded."""

    # on: the image's own maps; off: the RGB picture instead, so that capacity stays equal;
    # shuffled: the maps of another image (a control experiment).
    control: Literal["on", "off", "shuffled"] = "on"
    # Generators by name; any other name is that of a sensor which prepare.py imported.
    modalities: tuple[str, ...] = ("superpixels",)
    # Training: probability that a modality of a sample is absent; one always stays.
    dropout: float = 0.0
    # Training: other segment ids every time, which only color_by_id shows: as random colours.
    shuffle_ids: bool = False
    absent: tuple[str, ...] = ()  # missing now, e.g. at test time: not read, shown as 0.5
    superpixels: SuperpixelsConfig = field(default_factory=SuperpixelsConfig)
    sam: SamConfig = field(default_factory=SamConfig)
    depth_anything: DepthAnythingConfig = field(default_factory=DepthAnythingConfig)

    def selected(self) -> dict[str, GeneratorConfig]:
        """Settings of the generators in use, by name, in the recipe's order."""
        return {name: getattr(self, name) for name in self.present() if name in GENERATORS}

    def sensors(self) -> tuple[str, ...]:
        """The sensors in use; the name of one is that of its store."""
        return tuple(name for name in self.present() if name not in GENERATORS)

    def present(self) -> tuple[str, ...]:
        """The modalities that are not absent."""
        return tuple(name for name in self.modalities if name not in self.absent)

    def segment_stores(self) -> tuple[str, ...]:
        """The stores in use that hold segment ids; the others hold values."""
        chosen = self.selected().items()
        return tuple(config.store for name, config in chosen if name not in VALUE_GENERATORS)

    def problems(self) -> Problems:
        """No modality, one twice, one without encoding, two in one store, all absent."""
        if not self.modalities:
            yield "modalities", "must name at least one modality (for none, set control: off)"
        if len(set(self.modalities)) < len(self.modalities):
            yield "modalities", "names a modality twice"
        for name in self.modalities:
            if not name.replace("_", "").replace("-", "").isalnum():
                yield "modalities", f"'{name}' is no name of a folder"
        if self.control != "off" and (unknown := set(self.absent) - set(self.modalities)):
            yield "absent", f"names {', '.join(sorted(unknown))}, which modalities does not"
        elif self.control != "off" and self.modalities and not self.present():
            yield "absent", "names all modalities; at least one must be there"
        if not 0 <= self.dropout < 1:
            yield "dropout", "must be at least 0 and below 1"
        for name, config in self.selected().items():
            if not config.encodings:
                yield f"{name}.encodings", "must name at least one encoding"
        stores = [config.store for config in self.selected().values()] + list(self.sensors())
        if len(set(stores)) < len(set(self.present())):
            yield "modalities", f"two of them share one store ({', '.join(stores)})"
