"""Schema of recipes: every setting with its meaning, unit and default.

The defaults are those of the paper as far as it states them (the released ``config/Potsdam.py``);
a recipe in ``configs/*.yaml`` lists only the settings that differ. This file imports the standard
library only, so that every other file may import it.

``problems()`` of a section yields the values that its types allow and the program does not, as
pairs of key and sentence. ``utils.config`` reports all of them at once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

Problems = Iterator[tuple[str, str]]
Encoding = Literal["mean_color", "boundary", "boundary_distance", "log_area", "color_by_id"]
Layers = Literal["four_even", "four_last", "last"] | tuple[int, ...]
MapKind = Literal["segments", "values", "cells"]
# Generators compute maps from the RGB image. Their maps hold segment ids, but for those of
# VALUE_GENERATORS, which hold values, and of CELL_GENERATORS, several numbers for each cell.
GENERATORS = ("superpixels", "sam", "depth_anything", "features")
VALUE_GENERATORS = ("depth_anything",)
CELL_GENERATORS = ("features",)
RESERVED_NAMES = {"image", "target", "structure_image"}  # members of a sample, so no store's name


def _at_least(low: int, section: object, *keys: str) -> Problems:
    """Yield the settings of a section that are below a number."""
    for key in keys:
        if getattr(section, key) < low:
            yield key, f"must be {low} or more"


def _above_0(section: object, *keys: str) -> Problems:
    """Yield the settings of a section that are 0 or less."""
    for key in keys:
        if getattr(section, key) <= 0:
            yield key, "must be above 0"


def _below_1(section: object, *keys: str) -> Problems:
    """Yield the settings of a section that are outside [0, 1)."""
    for key in keys:
        if not 0 <= getattr(section, key) < 1:
            yield key, "must be at least 0 and below 1"


@dataclass(frozen=True, kw_only=True)
class SuperpixelsConfig:
    """SLIC superpixels: without weights, the baseline for foundation models."""

    join_tiles: ClassVar[bool] = False  # superpixels are as small at the edge of a tile as inside

    store: str = "superpixels"  # folder below modalities/ that holds the maps
    encodings: tuple[Encoding, ...] = ("mean_color", "boundary")  # input channels of the network
    segment_size_px: int = 16  # side of the initial grid cells
    compactness: float = 10.0  # weight of position against CIELAB colour
    num_iterations: int = 5  # k-means rounds
    min_area_share: float = 0.25  # smaller regions, as a fraction of a cell, are merged

    def problems(self) -> Problems:
        """Yield values out of range."""
        yield from _at_least(4, self, "segment_size_px")
        yield from _above_0(self, "compactness")
        yield from _at_least(1, self, "num_iterations")
        if not 0 <= self.min_area_share <= 1:
            yield "min_area_share", "must be between 0 and 1"


@dataclass(frozen=True, kw_only=True)
class SamConfig:
    """Segment Anything in everything mode, with the names and defaults of its package."""

    store: str = "sam"  # folder below modalities/ that holds the maps
    encodings: tuple[Encoding, ...] = ("color_by_id",)  # the coloured region map of the paper
    model_type: Literal["vit_b", "vit_l", "vit_h"] = "vit_h"
    # Path of the weights file; null: the official file in weights/; 'random' for tests and timing.
    checkpoint: str | None = None
    points_per_side: int = 32  # prompts along each side of the image
    points_per_batch: int = 64  # prompts per forward pass: affects memory, not the result
    pred_iou_thresh: float = 0.88  # minimum IoU of a mask as predicted by the network
    stability_score_thresh: float = 0.95  # minimum IoU of a mask at two shifted thresholds
    stability_score_offset: float = 1.0  # shift of these thresholds
    box_nms_thresh: float = 0.7  # of masks whose boxes have a higher IoU, the best rated stays
    crop_n_layers: int = 0  # layers of ever smaller crops, segmented besides the whole image
    crop_nms_thresh: float = 0.7  # like box_nms_thresh, between crops
    crop_overlap_ratio: float = 512 / 1500  # overlap of crops, as a fraction of the image side
    crop_n_points_downscale_factor: int = 1  # divisor of points_per_side from layer to layer
    images_per_batch: int = 4  # per encoder call on a GPU; 1 on the CPU
    # auto: bf16 on a CUDA device, fp32 on the CPU; fp32: the same maps on every device
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    window_px: int = 1024  # larger images are segmented in windows that are joined
    window_overlap_px: int = 128  # overlap of neighbouring windows
    join_tiles: bool = True  # overlapping tiles of a source image share their ids

    def problems(self) -> Problems:
        """Yield values out of range."""
        yield from _at_least(1, self, "points_per_side", "points_per_batch")
        yield from _window_problems(self)


@dataclass(frozen=True, kw_only=True)
class DepthAnythingConfig:
    """Depth Anything: relative inverse depth (near is large) from one RGB image."""

    encodings: ClassVar[tuple[str, ...]] = ("value",)  # the only one

    store: str = "depth_anything"  # folder below modalities/ that holds the maps
    # v2_small is Apache-2.0; v2_base and v2_large are CC-BY-NC-4.0.
    model_type: Literal["v2_small", "v2_base", "v2_large", "v1_small", "v1_base", "v1_large"] = (
        "v2_small"
    )
    # Path of the weights file; null: the official file in weights/; 'random' for tests and timing.
    checkpoint: str | None = None
    input_size_px: int = 518  # shorter side of the network's input, rounded to 14 px
    images_per_batch: int = 4  # per network call on a GPU; 1 on the CPU
    # auto: bf16 on a CUDA device, fp32 on the CPU; fp32: the same maps on every device
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    window_px: int = 1024  # larger images are predicted in windows that are joined
    window_overlap_px: int = 128  # overlap of neighbouring windows
    join_tiles: bool = True  # overlapping tiles of a source image share their scale

    def problems(self) -> Problems:
        """Yield values out of range."""
        yield from _at_least(14, self, "input_size_px")
        yield from _window_problems(self)


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """Principal components of the tokens of a frozen ViT, fitted on the training split."""

    encodings: ClassVar[tuple[str, ...]] = ("components",)  # the only one
    join_tiles: ClassVar[bool] = False  # the tokens of a tile depend on the tile alone

    store: str = "features"  # folder below modalities/ that holds the maps
    name: str = "vit_small_patch14_reg4_dinov2"  # timm name of the ViT
    # Path of the weights file; null: the official file in weights/; 'random' for tests and timing.
    checkpoint: str | None = None
    layers: Layers = "four_even"  # whose tokens are joined, as in model.rgb_vit.layers
    num_components: int = 256
    cell_px: int = 8  # side of the cells of a map; each is one patch of the ViT
    images_per_batch: int = 4  # windows per forward pass on a GPU; 1 on the CPU
    # auto: bf16 on a CUDA device, and on a CPU with units for it (AMX), else fp32
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    # Larger images are mapped in windows that are blended; of 37 cells, DINOv2 gets its 518 px.
    window_px: int = 296
    window_overlap_px: int = 64  # overlap of neighbouring windows

    def problems(self) -> Problems:
        """Yield values out of range."""
        if not 4 <= self.num_components <= 512:
            yield "num_components", "must be between 4 and 512"
        if not 4 <= self.cell_px <= 32:
            yield "cell_px", "must be between 4 and 32"
        yield from _layer_problems(self.layers)
        yield from _window_problems(self)


def _layer_problems(layers: Layers) -> Problems:
    """Yield numbers of layers that are not increasing from 1."""
    if not isinstance(layers, str) and (
        not layers or min(layers) < 1 or list(layers) != sorted(set(layers))
    ):
        yield "layers", "must be increasing numbers from 1"


def _window_problems(config: SamConfig | DepthAnythingConfig | FeaturesConfig) -> Problems:
    """Yield values out of range of the settings that generators with windows share."""
    yield from _at_least(1, config, "images_per_batch")
    yield from _at_least(64, config, "window_px")
    if not 1 <= config.window_overlap_px <= config.window_px // 2:
        yield "window_overlap_px", f"must be 1 to half of window_px ({config.window_px // 2})"


GeneratorConfig = SuperpixelsConfig | SamConfig | DepthAnythingConfig | FeaturesConfig


@dataclass(frozen=True, kw_only=True)
class StructureConfig:
    """Structure maps of the second branch, and their encoding."""

    # on: the maps of the image; off: the RGB image in their place, at equal capacity; shuffled:
    # the maps of another image (a control experiment).
    control: Literal["on", "off", "shuffled"] = "on"
    # Names of generators; any other name is that of a sensor imported by prepare.py.
    modalities: tuple[str, ...] = ("superpixels",)
    # Training: probability that a modality of a sample is dropped; at least one is kept.
    dropout: float = 0.0
    # Training: permute the segment ids of every sample; affects only color_by_id.
    shuffle_ids: bool = False
    absent: tuple[str, ...] = ()  # missing, e.g. at test time: not read, encoded as 0.5
    superpixels: SuperpixelsConfig = field(default_factory=SuperpixelsConfig)
    sam: SamConfig = field(default_factory=SamConfig)
    depth_anything: DepthAnythingConfig = field(default_factory=DepthAnythingConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)

    def selected(self) -> dict[str, GeneratorConfig]:
        """Return the settings of the generators in use, by name, in the recipe's order."""
        return {name: getattr(self, name) for name in self.present() if name in GENERATORS}

    def sensors(self) -> tuple[str, ...]:
        """Return the sensors in use; a sensor has the name of its store."""
        return tuple(name for name in self.present() if name not in GENERATORS)

    def present(self) -> tuple[str, ...]:
        """Return the modalities that are not absent."""
        return tuple(name for name in self.modalities if name not in self.absent)

    def segment_stores(self) -> tuple[str, ...]:
        """Return the stores in use that hold segment ids; the others hold values, or cells."""
        chosen, others = self.selected().items(), {*VALUE_GENERATORS, *CELL_GENERATORS}
        return tuple(config.store for name, config in chosen if name not in others)

    def problems(self) -> Problems:
        """Yield conflicts between modalities, stores and encodings."""
        if not self.modalities:
            yield "modalities", "must name at least one modality (for none, set control: off)"
        if len(set(self.modalities)) < len(self.modalities):
            yield "modalities", "names a modality twice"
        for name in self.modalities:
            if not name.replace("_", "").replace("-", "").isalnum():
                yield "modalities", f"'{name}' is not a valid folder name"
        if self.control != "off" and (unknown := set(self.absent) - set(self.modalities)):
            yield "absent", f"names {', '.join(sorted(unknown))}, which modalities does not"
        elif self.control != "off" and self.modalities and not self.present():
            yield "absent", "names all modalities; at least one must be there"
        yield from _below_1(self, "dropout")
        for name, config in self.selected().items():
            if not config.encodings:
                yield f"{name}.encodings", "must name at least one encoding"
        stores = [config.store for config in self.selected().values()] + list(self.sensors())
        if len(set(stores)) < len(set(self.present())):
            yield "modalities", f"two of them share one store ({', '.join(stores)})"
        if taken := RESERVED_NAMES.intersection(stores):
            yield "modalities", f"no store may be called '{taken.pop()}', a name of other members"


IGNORE_INDEX = 255  # class index of unlabelled pixels, excluded from losses and scores

Split = Literal["train", "val", "test"]
Labels = Literal["full", "eroded"]  # eroded: class borders are ignored


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Prepared data set, and augmentation of training samples."""

    root: str  # folder written by prepare.py
    train_split: Split = "train"
    val_split: Split = "val"  # selects the best checkpoint
    labels: Labels = "full"  # to train on
    crop_size_px: int = 640  # side of the square training crops
    scale_range: tuple[float, float] = (0.5, 1.75)  # random zoom before cropping
    dihedral: bool = True  # the eight flips and quarter turns, for nadir images
    color_jitter: float = 0.2  # maximum relative change of brightness, contrast, saturation
    # Probability that a crop is drawn around a class, chosen uniformly among those of the split.
    rare_class_share: float = 0.0
    num_workers: int = 4  # loader processes per rank

    def problems(self) -> Problems:
        """Yield values out of range."""
        if self.crop_size_px < 32:
            yield "crop_size_px", "must be 32 or more (the coarsest scale is 1/32)"
        if not 0 < self.scale_range[0] <= self.scale_range[1]:
            yield "scale_range", "must be two numbers above 0, the smaller first"
        yield from _below_1(self, "color_jitter")
        if not 0 <= self.rare_class_share <= 1:
            yield "rare_class_share", "must be between 0 and 1"
        if self.rare_class_share > 0 and self.labels != "full":
            yield "rare_class_share", "needs labels=full, of which histogram.csv counts the classes"
        yield from _at_least(0, self, "num_workers")


@dataclass(frozen=True, kw_only=True)
class VitConfig:
    """One frozen vision transformer."""

    name: str = "default"  # default: that of model.size; none: CNN stem alone; else a timm name
    # Path of the weights file, in timm's or the official layout; null: the official file in
    # weights/; 'random' for tests.
    weights: str | None = None
    # Layers that are read, one for each of the four stages: every quarter of the depth (four_even),
    # the last four (four_last), the last one for all (last), or numbers from 1: [3, 6, 9, 12].
    layers: Layers = "four_even"
    input_scale: float = 1.0  # side of the ViT's input over side of the image

    def problems(self) -> Problems:
        """Yield values out of range."""
        if not isinstance(self.layers, str) and len(self.layers) not in (1, 4):
            yield "layers", "must be one number, or one for each of the four stages"
        else:
            yield from _layer_problems(self.layers)
        if not 0.25 <= self.input_scale <= 4:
            yield "input_scale", "must be between 0.25 and 4"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Network."""

    size: Literal["tiny", "small", "base", "large"] = "small"
    rgb_vit: VitConfig = field(default_factory=VitConfig)
    structure_vit: VitConfig = field(default_factory=VitConfig)
    # Ablations: the branches of a fusion-enhancement block, and the gates of recalibration.
    fe_branches: tuple[Literal["global_context", "structure_gate", "large_kernel"], ...] = (
        "global_context",
        "structure_gate",
    )
    fr_gates: Literal["off", "channel", "channel_spatial"] = "channel_spatial"
    drop_path: float = 0.2  # stochastic depth of the last block; earlier ones rise linearly from 0
    head_dropout: float = 0.1
    recompute: bool = False  # activation checkpointing of FE blocks: less memory, more time

    def problems(self) -> Problems:
        """Yield values out of range."""
        if not self.fe_branches:
            yield "fe_branches", "must name at least one branch"
        if len(set(self.fe_branches)) < len(self.fe_branches):
            yield "fe_branches", "names a branch twice"
        yield from _below_1(self, "drop_path", "head_dropout")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser, learning rate, duration and loss."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9  # of sgd
    lr: float = 8e-5  # peak, for the whole batch
    # Factors of lr for parts of the network, by prefix of their parameters' names: {head: 10}
    lr_factors: dict[str, float] = field(default_factory=dict)
    weight_decay: float = 0.01  # not on norms, biases and layer scales
    batch_size: int = 16  # samples per step, over all ranks and micro-batches
    accumulate: int = 1  # micro-batches per rank and step: less memory
    num_epochs: int = 300
    # null: one pass over the data. A run of 160,000 iterations is num_epochs=160
    # steps_per_epoch=1000.
    steps_per_epoch: int | None = None
    warmup_epochs: int = 10  # linear, from lr / number of warm-up steps
    schedule: Literal["poly", "cosine"] = "poly"  # after the warm-up; ends at 0
    poly_power: float = 0.9
    clip_norm: float = 1.0  # largest norm of the gradient; 0: no clipping
    ema_decay: float = 0.0  # of the averaged weights used for evaluation; 0: no averaging
    dice_weight: float = 0.5
    cross_entropy_weight: float = 0.5
    label_smoothing: float = 0.1
    class_weights: tuple[float, ...] | None = None  # one factor per class, in data set order
    object_weight: float = 0.0  # penalises several classes in a segment; 0: off
    boundary_weight: float = 0.0  # penalises edges away from segment borders; 0: off

    def problems(self) -> Problems:
        """Yield values out of range."""
        yield from _above_0(self, "lr", "batch_size", "accumulate", "num_epochs")
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            yield "steps_per_epoch", "must be 1 or more (null: one pass over the data)"
        if any(factor < 0 for factor in self.lr_factors.values()):
            yield "lr_factors", "must all be 0 or more"
        yield from _below_1(self, "momentum", "ema_decay", "label_smoothing")
        not_negative = ("weight_decay", "warmup_epochs", "poly_power", "clip_norm")
        yield from _at_least(0, self, *not_negative, "object_weight", "boundary_weight")
        if self.warmup_epochs >= self.num_epochs > 0:
            yield "warmup_epochs", f"must be below num_epochs ({self.num_epochs})"
        if self.dice_weight < 0 or self.cross_entropy_weight < 0:
            yield "dice_weight", "and cross_entropy_weight must be 0 or more"
        elif self.dice_weight + self.cross_entropy_weight == 0:
            yield "dice_weight", "and cross_entropy_weight are both 0: there is no loss"
        if self.class_weights is not None:
            if any(weight < 0 for weight in self.class_weights):
                yield "class_weights", "must all be 0 or more"
            elif not any(self.class_weights):
                yield "class_weights", "are all 0: no pixel would count (for no weights, set null)"


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Sliding-window prediction, scoring, and the validation schedule."""

    window_px: int = 640  # side of the prediction windows
    overlap_px: int = 128  # overlap of neighbouring windows
    batch_size: int = 4  # windows per forward pass
    # Test-time augmentation: each window is also predicted zoomed and turned, softmax averaged.
    scales: tuple[float, ...] = (1.0,)  # memory grows with the square of the largest
    turns: Literal[1, 2, 8] = 1  # 1: none; 2: also mirrored; 8: all flips and quarter turns
    labels: Labels = "full"  # to score on; eroded ones are computed from full ones if necessary
    # source: tiles of a source image are blended where they overlap, and every pixel is scored
    # once; tile: each tile is scored by itself.
    unit: Literal["source", "tile"] = "source"
    # Classes excluded from the means; their pixels stay in the confusion matrix: [clutter]
    mean_without: tuple[str, ...] = ()
    every_epochs: int = 10  # interval of validations; the last epoch is always validated
    metric: Literal["miou", "mf1", "oa"] = "miou"  # selects the best checkpoint
    patience: int = 0  # validations without improvement before the run stops; 0: never

    def problems(self) -> Problems:
        """Yield values out of range."""
        yield from _at_least(0, self, "patience")
        yield from _at_least(1, self, "batch_size", "every_epochs")
        yield from _at_least(32, self, "window_px")
        if not 0 <= self.overlap_px < self.window_px:
            yield "overlap_px", f"must be at least 0 and below window_px ({self.window_px})"
        if not self.scales or len(set(self.scales)) < len(self.scales):
            yield "scales", "must name at least one number, and none twice"
        elif not all(0 < scale < math.inf for scale in self.scales):
            yield "scales", "must all be above 0"
        elif min(self.scales) * self.window_px < 32 <= self.window_px:
            yield "scales", f"must make windows of 32 px or more of window_px ({self.window_px})"
        if len(set(self.mean_without)) < len(self.mean_without):
            yield "mean_without", "names a class twice"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Output, device, precision and intervals of a run."""

    output: str = "runs"  # the run folder is OUTPUT/NAME
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # auto: bf16 on CUDA, else fp32; tf32: fp32 with products rounded to 10 bits on CUDA
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    compile: bool = False  # torch.compile the network for training
    deterministic: bool = False  # refuse nondeterministic CUDA operations; slower
    fine_tune: str | None = None  # checkpoint to initialise from, of any classes; null: none
    dry: bool = False  # build everything, time two steps and a validation, write nothing
    log_every_steps: int = 10
    save_every_steps: int = 500  # interval of last.pth, besides epochs that are validated
    keep_every_epochs: int = 0  # keeps epoch_0012.pth etc. permanently; 0: none

    def problems(self) -> Problems:
        """Yield values out of range."""
        yield from _at_least(0, self, "keep_every_epochs")
        yield from _at_least(1, self, "log_every_steps", "save_every_steps")
        if self.device == "cpu" and self.precision == "tf32":
            yield "precision", "tf32 is for CUDA devices; take fp32 on the CPU"
        if self.device == "cpu" and self.precision == "fp16":
            yield "precision", "fp16 needs a CUDA device; take bf16 or fp32 on the CPU"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Experiment: data, structure maps, network, optimisation, evaluation, run."""

    name: str  # of the experiment, and of its run folder
    data: DataConfig
    structure: StructureConfig = field(default_factory=StructureConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def problems(self) -> Problems:
        """Yield conflicts between sections."""
        if self.structure.control == "on" and self.structure.segment_stores():
            return
        for key in ("object_weight", "boundary_weight"):
            if getattr(self.optim, key) > 0:
                yield f"optim.{key}", "needs structure.control=on and a segment modality"
