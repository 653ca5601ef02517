"""Table of the named sizes for docs/: parameters and operations, counted, not measured.

::

    python benchmarks/sizes.py

The networks are built on the meta device, so ``large`` with its 1.1 billion frozen parameters
needs no memory. Operations are those that ``utils.reports.cost`` counts, for one image of 512x512
pixels, five classes, and a structure input of four channels (superpixels: mean colour and borders).
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from configs.schema import ModelConfig, VitConfig
from models.build import SIZES, build_network
from utils.reports.cost import count_flops, count_parameters

IMAGE_PX = 512
HEADER = "| size | C1..C4 | FE blocks | heads | frozen ViTs: RGB, structure | trainable | frozen | \
GFLOPs | without ViTs |"


def count(size: str, vit: VitConfig) -> tuple[float, float, float]:
    """Return millions of trainable and frozen parameters, and GFLOPs of a forward pass."""
    config = ModelConfig(size=size, rgb_vit=vit, structure_vit=vit)  # type: ignore[arg-type]
    with torch.device("meta"):
        network = build_network(
            config, num_classes=5, structure_channels=4, pictures=((0, 1, 2),)
        ).eval()
        inputs = [torch.empty(1, channels, IMAGE_PX, IMAGE_PX) for channels in (3, 4)]
        flops = count_flops(network, inputs)
    trainable, frozen = count_parameters(network)
    return trainable / 1e6, frozen / 1e6, flops / 1e9


def row(size: str) -> str:
    """Return one row of the table."""
    fixed = SIZES[size]
    trainable, frozen, flops = count(size, VitConfig(weights="random"))
    without = count(size, VitConfig(name="none"))[2]
    numbers = [", ".join(map(str, x)) for x in (fixed.channels, fixed.depths, fixed.num_heads)]
    vits = ", ".join(f"`{name}`" for name in dict.fromkeys((fixed.rgb_vit, fixed.structure_vit)))
    cells = [f"`{size}`", *numbers, vits, f"{trainable:.2f} M", f"{frozen:.1f} M"]
    return "| " + " | ".join([*cells, f"{flops:.1f}", f"{without:.1f}"]) + " |"


def table() -> str:
    """Return the whole table in Markdown."""
    return "\n".join([HEADER, "|---" * HEADER.count(" | ") + "|---|", *map(row, SIZES)])


if __name__ == "__main__":
    print(table())
