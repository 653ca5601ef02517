"""Every setting of a recipe: name, meaning, unit and default.

The defaults are the paper's recipe as far as it is known (the released ``config/Potsdam.py``); a
recipe in ``configs/*.yaml`` lists only what differs. The ``structure`` section is in
``configs/structure.py``. Both import nothing but the standard library, so that every other file may
import them.

A class may have ``problems()``: the combinations its types allow and the program does not, each as
``(key, sentence)``. ``utils.config`` reports all of them at once.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from configs.structure import Problems, StructureConfig

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
