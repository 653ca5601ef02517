"""Depth Anything for tests: official layout, random weights, and the network of transformers."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.schema import DepthAnythingConfig
from models import weights as official
from models.structure.depth_anything import DepthAnythingNetwork, load_depth_anything

CPU = torch.device("cpu")
LAYERS = {"v1_large": (20, 21, 22, 23), "v2_large": (4, 11, 17, 23)}  # of the official code, from 0
LAYERS |= dict.fromkeys(("v1_small", "v1_base"), (8, 9, 10, 11))
LAYERS |= dict.fromkeys(("v2_small", "v2_base"), (2, 5, 8, 11))
Weights = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


def official_layout(size: str) -> Shapes:
    """Names and shapes in an official file; both versions have the same."""
    path = Path(__file__).with_name("depth_anything_layout.json")
    parts = json.loads(path.read_text())[size]
    shapes = {f"pretrained.{name}": shape for name, shape in parts["pretrained"].items()}
    for i in range(parts["num_blocks"]):
        block = parts["pretrained.blocks.*"].items()
        shapes |= {f"pretrained.blocks.{i}.{name}": shape for name, shape in block}
    shapes |= {f"depth_head.{name}": shape for name, shape in parts["depth_head"].items()}
    return {name: tuple(shape) for name, shape in shapes.items()}


def official_weights(size: str) -> Weights:
    """Random weights under official names that keep activations about 1 and the output alive."""
    rng, weights = torch.Generator().manual_seed(0), {}
    for name, shape in official_layout(size).items():
        is_matrix = len(shape) > 1 and name.endswith("weight")
        weights[name] = torch.randn(shape, generator=rng) * (
            math.prod(shape[1:]) ** -0.5 if is_matrix else 0.1
        )
        if "norm" in name and name.endswith("weight"):
            weights[name] += 1
        if name.endswith("gamma"):
            weights[name] += 0.3
        if name.endswith("pos_embed"):
            weights[name] *= 5
    weights["depth_head.scratch.output_conv2.2.weight"] *= 4
    weights["depth_head.scratch.output_conv2.2.bias"] += 2
    return weights


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with slopes, edges and noise."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).integers(0, 60, (height, width))
    boxes = 120 * ((x // 37 + y // 23 + seed) % 2)
    return np.stack([y * 200 // height, noise + boxes, x * 255 // width], -1).astype(np.uint8)


def pictures(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(1))


def literal_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """The rule of DINOv2's authors, written out: bicubic, no antialiasing, 0.1 patches extra."""
    learned = positions[0, 1:].view(37, 37, -1).double()
    if grid != (37, 37):
        learned = torch.einsum("ia,jb,abd->ijd", *(cubic(37, n, n + 0.1) for n in grid), learned)
    return torch.cat([positions[:, :1], learned.flatten(0, 1)[None].float()], 1)


def cubic(old: int, new: int, stretched: float) -> Tensor:
    """``(new, old)`` matrix of Keys' cubic interpolation with a = -0.75, edges repeated."""
    matrix = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        centre = (i + 0.5) * old / stretched - 0.5
        for k in range(math.floor(centre) - 1, math.floor(centre) + 3):
            t = abs(centre - k)
            near, far = 1.25 * t**3 - 2.25 * t**2 + 1, -0.75 * t**3 + 3.75 * t**2 - 6 * t + 3
            matrix[i, min(max(k, 0), old - 1)] += near if t <= 1 else far
    return matrix


# Parts of official names, and what transformers calls them; replaced in this order.
_OTHER_PARTS = {
    "pretrained.blocks.": "backbone.encoder.layer.",
    "attn.proj": "attention.o_proj",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "pretrained.patch_embed.proj": "backbone.embeddings.patch_embeddings.projection",
    "pretrained.pos_embed": "backbone.embeddings.position_embeddings",
    "pretrained.norm.": "backbone.layernorm.",
    "pretrained.": "backbone.embeddings.",
    **{f"projects.{i}": f"reassemble_stage.layers.{i}.projection" for i in range(4)},
    **{f"resize_layers.{i}": f"reassemble_stage.layers.{i}.resize" for i in range(4)},
    "depth_head.reassemble": "neck.reassemble",
    **{f"depth_head.scratch.layer{i + 1}_rn": f"neck.convs.{i}" for i in range(4)},
    **{f"depth_head.scratch.refinenet{4 - i}": f"neck.fusion_stage.layers.{i}" for i in range(4)},
    "out_conv": "projection",
    "resConfUnit": "residual_layer",
    "1.conv": "1.convolution",
    "2.conv": "2.convolution",
    "depth_head.scratch.output_conv1": "head.conv1",
    "depth_head.scratch.output_conv2.0": "head.conv2",
    "depth_head.scratch.output_conv2.2": "head.conv3",
}


def other_names(weights: Weights) -> Weights:
    """Official names -> those of transformers."""
    renamed: Weights = {}
    for name, tensor in weights.items():
        if ".attn.qkv." in name:
            block, kind = name.split(".")[2], name.rpartition(".")[2]
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"backbone.encoder.layer.{block}.attention.{letter}_proj.{kind}"] = part
            continue
        for ours, theirs in _OTHER_PARTS.items():
            name = name.replace(ours, theirs)
        renamed[name] = tensor
    return renamed


def other_network(model_type: str, weights: Weights) -> torch.nn.Module:
    """The network of transformers with official weights, and the official positions."""
    reason = "transformers is not installed (tests/requirements.txt)"
    transformers = pytest.importorskip("transformers", reason=reason)
    dim = weights["pretrained.cls_token"].shape[-1]
    backbone = transformers.Dinov2Config(
        image_size=518,
        patch_size=14,
        hidden_size=dim,
        num_attention_heads=dim // 64,
        num_hidden_layers=sum(name.endswith("ls1.gamma") for name in weights),
        out_indices=[i + 1 for i in LAYERS[model_type]],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=dim,
        neck_hidden_sizes=[len(weights[f"depth_head.projects.{i}.bias"]) for i in range(4)],
        fusion_hidden_size=len(weights["depth_head.scratch.layer1_rn.weight"]),
    )
    with torch.device("meta"):
        network = transformers.DepthAnythingForDepthEstimation(config)
    network.load_state_dict(other_names(weights), assign=True)
    positions = weights["pretrained.pos_embed"]
    # Theirs have another rule off the 37x37 grid; see resize_positions.
    network.backbone.embeddings.interpolate_pos_encoding = lambda x, height, width: (
        literal_positions(positions, (height // 14, width // 14))
    )
    return network.eval()


def load(model_type: str, weights: Weights, path: Path, monkeypatch) -> DepthAnythingNetwork:
    """Load a network from a file at ``path`` that holds ``weights``; nothing is written of them."""
    monkeypatch.setattr(official, "read_state_dict", lambda _: dict(weights))
    path.touch()
    config = DepthAnythingConfig(model_type=model_type, checkpoint=str(path))
    return load_depth_anything(config, CPU)[0]
