"""Every setting of a recipe: name, meaning, unit and default.

The defaults are the paper's recipe as far as it is known (the released ``config/Potsdam.py``); a
recipe in ``configs/*.yaml`` lists only what differs. The ``structure`` section is in
``configs/structure.py``. Both import nothing but the standard library, so that every other file may
import them.

A class may have ``problems()``: the combinations its types allow and the program does not, each as
``(key, sentence)``. ``utils.config`` reports all of them at once.
"""

import math
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


IGNORE_INDEX = 255  # class index of pixels that nobody labelled: in no loss and no score

Split = Literal["train", "val", "test"]
Labels = Literal["full", "eroded"]  # eroded: borders of objects are ignored


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The prepared data set, and what is done to a training sample."""

    root: str  # folder written by prepare.py
    train_split: Split = "train"
    val_split: Split = "val"  # selects the best checkpoint
    labels: Labels = "full"  # to train on
    crop_size_px: int = 640  # side of the square training crops
    scale_range: tuple[float, float] = (0.5, 1.75)  # random zoom before cropping
    dihedral: bool = True  # the eight flips and quarter turns; nadir images have no up
    color_jitter: float = 0.2  # largest relative change of brightness, contrast, saturation
    # Probability that a crop is drawn to show a class, all classes of the split alike.
    rare_class_share: float = 0.0
    num_workers: int = 4  # loader processes per rank

    def problems(self) -> Problems:
        """Values out of range."""
        if self.crop_size_px < 32:
            yield "crop_size_px", "must be 32 or more (the coarsest scale is 1/32)"
        if not 0 < self.scale_range[0] <= self.scale_range[1]:
            yield "scale_range", "must be two numbers above 0, the smaller first"
        if not 0 <= self.color_jitter < 1:
            yield "color_jitter", "must be between 0 and 1"
        if not 0 <= self.rare_class_share <= 1:
            yield "rare_class_share", "must be between 0 and 1"
        if self.rare_class_share > 0 and self.labels != "full":
            yield "rare_class_share", "needs labels=full, of which histogram.csv counts the classes"
        if self.num_workers < 0:
            yield "num_workers", "must be 0 or more"


@dataclass(frozen=True, kw_only=True)
class VitConfig:
    """One frozen vision transformer."""

    name: str = "default"  # default: that of the size; none: CNN stem alone; else a timm name
    # Path of the weights file, in timm's or the official layout; null: the official file in
    # weights/; 'random' for tests.
    weights: str | None = None
    num_layers: int = 1  # 1: tokens of the last layer; n: of n evenly spaced ones, joined
    # projection: on the tokens' own grid; depth_to_space: as the released code means to do.
    join: Literal["projection", "depth_to_space"] = "projection"

    def problems(self) -> Problems:
        """Values out of range."""
        if self.num_layers < 1:
            yield "num_layers", "must be 1 or more"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    size: Literal["tiny", "small", "base", "large"] = "small"
    rgb_vit: VitConfig = field(default_factory=VitConfig)
    structure_vit: VitConfig = field(default_factory=VitConfig)
    # Ablations: what a fusion-enhancement block is made of, and what recalibration does.
    fe_branches: tuple[Literal["global_context", "structure_gate", "large_kernel"], ...] = (
        "global_context",
        "structure_gate",
    )
    fr_gates: Literal["off", "channel", "channel_spatial"] = "channel_spatial"
    drop_path: float = 0.2  # largest rate of stochastic depth, reached in the last block
    head_dropout: float = 0.1
    recompute: bool = False  # activation checkpointing of the FE blocks: less memory, more time

    def problems(self) -> Problems:
        """Values out of range."""
        if not self.fe_branches:
            yield "fe_branches", "must name at least one branch"
        if len(set(self.fe_branches)) < len(self.fe_branches):
            yield "fe_branches", "names a branch twice"
        if not 0 <= self.drop_path < 1:
            yield "drop_path", "must be at least 0 and below 1"
        if not 0 <= self.head_dropout < 1:
            yield "head_dropout", "must be at least 0 and below 1"


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser, learning rate, length of the run, loss."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9  # of sgd
    lr: float = 8e-5  # peak, for the whole batch
    # Factors on lr for parts of the network, by the beginning of their names: {head: 10}
    lr_factors: dict[str, float] = field(default_factory=dict)
    weight_decay: float = 0.01  # not on norms, biases and layer scales
    batch_size: int = 16  # samples a step, over all ranks and micro-batches together
    accumulate: int = 1  # micro-batches a rank makes of its part of a batch: less memory
    num_epochs: int = 300
    # Steps that are called an epoch; null: one pass over the data. A run of 160,000 iterations is
    # num_epochs=160 steps_per_epoch=1000.
    steps_per_epoch: int | None = None
    warmup_epochs: int = 10  # linear, from lr / number of warm-up steps
    schedule: Literal["poly", "cosine"] = "poly"  # after the warm-up, to 0 at the end
    poly_power: float = 0.9
    clip_norm: float = 1.0  # largest norm of the gradient; 0: no clipping
    ema_decay: float = 0.0  # of the averaged weights that are evaluated; 0: no averaging
    dice_weight: float = 0.5
    cross_entropy_weight: float = 0.5
    label_smoothing: float = 0.1
    class_weights: tuple[float, ...] | None = None  # one factor per class, in data set order
    object_weight: float = 0.0  # one prediction per segment; 0: off
    boundary_weight: float = 0.0  # edges of the prediction at segment borders only; 0: off

    def problems(self) -> Problems:
        """Values out of range."""
        for key in ("lr", "batch_size", "accumulate", "num_epochs"):
            if getattr(self, key) <= 0:
                yield key, "must be above 0"
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            yield "steps_per_epoch", "must be 1 or more (null: one pass over the data)"
        if any(factor < 0 for factor in self.lr_factors.values()):
            yield "lr_factors", "must all be 0 or more"
        if not 0 <= self.momentum < 1:
            yield "momentum", "must be at least 0 and below 1"
        for key in ("weight_decay", "warmup_epochs", "poly_power", "clip_norm"):
            if getattr(self, key) < 0:
                yield key, "must be 0 or more"
        if self.warmup_epochs >= self.num_epochs > 0:
            yield "warmup_epochs", f"must be below num_epochs ({self.num_epochs})"
        for key in ("ema_decay", "label_smoothing"):
            if not 0 <= getattr(self, key) < 1:
                yield key, "must be at least 0 and below 1"
        if self.dice_weight < 0 or self.cross_entropy_weight < 0:
            yield "dice_weight", "and cross_entropy_weight must be 0 or more"
        elif self.dice_weight + self.cross_entropy_weight == 0:
            yield "dice_weight", "and cross_entropy_weight are both 0: there is no loss"
        for key in ("object_weight", "boundary_weight"):
            if getattr(self, key) < 0:
                yield key, "must be 0 or more"
        if self.class_weights is not None:
            if any(weight < 0 for weight in self.class_weights):
                yield "class_weights", "must all be 0 or more"
            elif not any(self.class_weights):
                yield "class_weights", "are all 0: no pixel would count (for no weights, set null)"


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Sliding-window prediction and the rhythm of validation."""

    window_px: int = 640  # side of the windows an image is predicted in
    overlap_px: int = 128  # shared by neighbouring windows
    batch_size: int = 4  # windows computed together
    # Test-time augmentation: every window is also predicted zoomed and turned, softmax averaged.
    scales: tuple[float, ...] = (1.0,)  # memory grows with the square of the largest
    turns: Literal[1, 2, 8] = 1  # 1: as it is; 2: also mirrored; 8: all flips and quarter turns
    labels: Labels = "full"  # to score against; eroded ones are made of full ones if need be
    # What is scored at once. source: the tiles of one source image, their logits blended where
    # they overlap, every pixel once; tile: each tile by itself.
    unit: Literal["source", "tile"] = "source"
    # Classes that the means leave out; their pixels stay in the confusion matrix: [clutter]
    mean_without: tuple[str, ...] = ()
    every_epochs: int = 10  # validation; the last epoch is always validated
    metric: Literal["miou", "mf1", "oa"] = "miou"  # selects the best checkpoint
    patience: int = 0  # validations in a row without a better score that end a run; 0: no end

    def problems(self) -> Problems:
        """Values out of range."""
        if self.patience < 0:
            yield "patience", "must be 0 or more"
        if self.window_px < 32:
            yield "window_px", "must be 32 or more"
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
        for key in ("batch_size", "every_epochs"):
            if getattr(self, key) < 1:
                yield key, "must be 1 or more"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where and how the run is carried out."""

    output: str = "runs"  # the run folder is OUTPUT/NAME
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # auto: bf16 on CUDA, else fp32; tf32: fp32 whose products a CUDA device rounds to 10 bits
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    compile: bool = False  # torch.compile the network for training
    deterministic: bool = False  # refuse operations that differ from run to run on CUDA; slower
    fine_tune: str | None = None  # a checkpoint to begin with, of any classes; null: from scratch
    dry: bool = False  # build everything, try two steps and a validation, write nothing
    log_every_steps: int = 10
    save_every_steps: int = 500  # last.pth, beside the end of every epoch that is validated
    keep_every_epochs: int = 0  # epoch_0012.pth, kept for good; 0: none

    def problems(self) -> Problems:
        """Values out of range."""
        if self.keep_every_epochs < 0:
            yield "keep_every_epochs", "must be 0 or more"
        if self.device == "cpu" and self.precision == "tf32":
            yield "precision", "tf32 is for CUDA devices; take fp32 on the CPU"
        for key in ("log_every_steps", "save_every_steps"):
            if getattr(self, key) < 1:
                yield key, "must be 1 or more"
        if self.device == "cpu" and self.precision == "fp16":
            yield "precision", "fp16 needs a CUDA device; take bf16 or fp32 on the CPU"


@dataclass(frozen=True, kw_only=True)
class Config:
    """One experiment: data, structure maps, network, optimisation, evaluation, run."""

    name: str  # of the experiment, and of its run folder
    data: DataConfig
    structure: StructureConfig = field(default_factory=StructureConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def problems(self) -> Problems:
        """Settings of different sections that do not go together."""
        if self.structure.control == "on" and self.structure.segment_stores():
            return
        for key in ("object_weight", "boundary_weight"):
            if getattr(self.optim, key) > 0:
                yield f"optim.{key}", "needs structure.control=on and a segment modality"
