"""Inference with a network whose prediction of a pixel depends on its colour alone."""

from pathlib import Path
from typing import ClassVar

import torch

from configs.schema import EvalConfig
from utils.distributed import DistContext
from utils.evaluation.evaluate import Predictor
from utils.inference.inputs import find_inputs
from utils.inference.maps import GeneratedMaps
from utils.inference.results import OutputSettings
from utils.inference.run import infer_images
from utils.inference.segment import Segmenter
from utils.precision import Precision
from utils.rasters.rendering import AS_STORED, Rendering

CPU = torch.device("cpu")
CONFIG = EvalConfig(window_px=64, overlap_px=16, batch_size=3)
KINDS = ("index", "color", "overlay", "confidence", "probabilities", "polygons")


class Darkest(torch.nn.Module):
    """Three classes: the channel that is darkest. It records the size of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, image: torch.Tensor, structure: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(image))
        return -9 * image


class NoStructure:
    """An encoder without maps."""

    value_stores = ()
    cell_px: ClassVar = {}

    def __call__(self, image, maps, structure_image=None):
        return (image[:, :0],)


def infer_pointwise(
    source: Path,
    output: Path,
    dist: DistContext,
    rendering: Rendering = AS_STORED,
    kinds: tuple[str, ...] = KINDS,
    split: str | None = None,
) -> Darkest:
    """Segment images, or a split of a prepared set; the network."""
    network = Darkest()
    predictor = Predictor(network, NoStructure(), Precision("fp32", CPU), CONFIG, CPU)
    settings = OutputSettings(
        folder=output,
        kinds=kinds,
        classes=("red", "green", "blue"),
        palette=((255, 0, 0), (0, 255, 0), (0, 0, 255)),
    )
    segmenter = Segmenter(predictor, GeneratedMaps({}), CONFIG)
    images = find_inputs(source, output, split)
    infer_images(segmenter, images, settings, dist, digest="", rendering=rendering)
    return network
