"""Reference implementations and peer networks for ``benchmarks/model.py``."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from models.feature_recalibration import FeatureRecalibration
from models.fusion_enhancement import FusionEnhancement
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


def _norm(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
    return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias).permute(0, 3, 1, 2)


def _conv(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = p[f"{name}.weight"]
    groups = x.shape[1] // weight.shape[1]
    return F.conv2d(x, weight, p.get(f"{name}.bias"), padding=weight.shape[-1] // 2, groups=groups)


def plain_stage(fe: FusionEnhancement, fr: FeatureRecalibration) -> Stage:
    """Return the same stage in plain library operations: channels first, no folding."""
    p, r = _copies(fe.blocks[0]), _copies(fr)

    def context(u_rgb: Tensor, u: Tensor) -> Tensor:
        query = F.adaptive_avg_pool2d(_conv(p, "branches.global_context.query", u), 7).flatten(2).mT
        both = _conv(p, "branches.global_context.key_value", u_rgb).flatten(2).chunk(2, 1)
        key, value = (x.mT for x in both)
        answer = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1) @ value
        grid = answer.mT.unflatten(2, (7, 7))
        return F.interpolate(grid, size=u.shape[2:], mode="bilinear", align_corners=False)

    def enhance(x_rgb: Tensor, x_structure: Tensor) -> list[Tensor]:
        u_rgb, u_structure = _norm(p, "norm_rgb", x_rgb), _norm(p, "norm_structure", x_structure)
        gate = "branches.structure_gate"
        around = _conv(p, f"{gate}.gate_context", _conv(p, f"{gate}.gate", u_structure))
        near = _conv(p, f"{gate}.local", u_rgb) * around
        y = torch.cat([context(u_rgb, torch.cat([u_rgb, u_structure], 1)), near], 1)
        out = []
        for m, x in (("rgb", x_rgb), ("structure", x_structure)):
            x = x + p[f"out_{m}.gamma"].view(-1, 1, 1) * _conv(p, f"out_{m}", y)
            hidden = _conv(p, f"mlp_{m}.expand", _norm(p, f"mlp_norm_{m}", x))
            hidden = F.gelu(_conv(p, f"mlp_{m}.mix", hidden))
            gamma = p[f"mlp_{m}.reduce.gamma"].view(-1, 1, 1)
            out.append(x + gamma * _conv(p, f"mlp_{m}.reduce", hidden))
        return out

    def weigh(x: list[Tensor], gates: list[Tensor]) -> list[Tensor]:
        return [gates[0] * x[0] + x[1], gates[1] * x[1] + x[0]]

    def run(x_rgb: Tensor, x_structure: Tensor) -> tuple[Tensor, Tensor]:
        f = enhance(x_rgb, x_structure)
        z = torch.cat([x_rgb, x_structure], 1)
        x = weigh(
            [x_rgb, x_structure],
            [
                literal.channel_gate(literal.part(r, f"channel_{m}"), z)
                for m in ("rgb", "structure")
            ],
        )
        z = torch.cat(x, 1)
        x = weigh(
            x,
            [
                literal.spatial_gate(literal.part(r, f"spatial_{m}"), z)
                for m in ("rgb", "structure")
            ],
        )
        pair = torch.cat([x[0] + f[0], x[1] + f[1]], 1)
        return tuple(
            _norm(r, f"norm_{m}", _conv(r, f"out_{m}", pair)) for m in ("rgb", "structure")
        )  # type: ignore[return-value]

    return run
