"""Reference implementations and peer networks for ``benchmarks/model.py``."""

from collections.abc import Callable, Iterator
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from models.feature_recalibration import FeatureRecalibration
from models.fusion_enhancement import FusionEnhancement
from models.layers import resize
from tests.models import literal

Stage = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# Size of ours -> networks with the parameter count nearest to its trainable part.
_PEERS = {
    "small": (
        ("Segformer", "mit_b0"),
        ("UPerNet", "mobilenet_v2"),
        ("DeepLabV3", "mobilenet_v3_large"),
    ),
    "base": (("Segformer", "mit_b2"), ("UPerNet", "resnet50"), ("DeepLabV3", "resnet50")),
}


def peer_networks(size: str, num_classes: int) -> Iterator[tuple[str, nn.Module]]:
    """Build the installed peers with random weights; nothing is downloaded."""
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        smp = None
    for kind, encoder in _PEERS[size]:
        if kind == "DeepLabV3":
            build = getattr(torchvision.models.segmentation, f"deeplabv3_{encoder}")
            network = build(weights=None, weights_backbone=None, num_classes=num_classes)
            yield f"DeepLabV3 {encoder} (torchvision)", _FirstOutput(network)
        elif smp is not None:
            network = getattr(smp, kind)(encoder, encoder_weights=None, classes=num_classes)
            yield f"{kind} {encoder} (smp)", network


class _FirstOutput(nn.Module):
    """Adapter of torchvision's networks, which return a dictionary."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, 3, H, W)`` to logits ``(B, C, H, W)``."""
        return self.network(x)["out"]


def _copies(module: nn.Module) -> dict[str, Tensor]:
    return {
        k: v.detach().clone().contiguous().requires_grad_() for k, v in module.named_parameters()
    }


def literal_stage(fe: FusionEnhancement, fr: FeatureRecalibration) -> Stage:
    """Return an FE block and its FR as literal equations, with the same weights."""
    block, after = _copies(fe.blocks[0]), _copies(fr)

    def run(x_rgb: Tensor, x_structure: Tensor) -> tuple[Tensor, Tensor]:
        f_rgb, f_structure = literal.fusion_enhancement_block(block, x_rgb, x_structure, 1)
        return literal.feature_recalibration(after, x_rgb, x_structure, f_rgb, f_structure)

    return run


def _norm(p: dict[str, Tensor], x: Tensor) -> Tensor:
    weight, bias = p["weight"], p["bias"]
    return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias).permute(0, 3, 1, 2)


def _conv(p: dict[str, Tensor], x: Tensor) -> Tensor:
    weight = p["weight"]
    groups = x.shape[1] // weight.shape[1]
    return F.conv2d(x, weight, p.get("bias"), padding=weight.shape[-1] // 2, groups=groups)


def plain_stage(fe: FusionEnhancement, fr: FeatureRecalibration) -> Stage:
    """Return the same equations in plain library operations: channels first, no folding."""
    literal_run = literal_stage(fe, fr)

    def run(x_rgb: Tensor, x_structure: Tensor) -> tuple[Tensor, Tensor]:
        with patch.multiple(
            literal,
            layer_norm=_norm,
            project=_conv,
            depth_wise=_conv,
            gelu=F.gelu,
            softmax=partial(torch.softmax, dim=-1),
            pool=F.adaptive_avg_pool2d,
            bilinear=resize,
        ):
            return literal_run(x_rgb, x_structure)

    return run
