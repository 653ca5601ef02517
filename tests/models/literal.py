"""The blocks' documented equations, written down once more, slowly and without the modules.

Every function takes a block's parameters by name and does what the docstring says, term by term,
with sums and products alone: no fused operation, nothing folded, nothing reordered. The tests
compare the modules with it in float64; ``benchmarks/model.py`` measures both.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Parameters = dict[str, Tensor]


def part(parameters: Parameters, prefix: str) -> Parameters:
    """The parameters of a sub-module, without its prefix."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in parameters.items() if k.startswith(start)}


def normalize(p: Parameters, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    normal = (x - mean) / torch.sqrt(variance + 1e-5)
    return p["weight"].view(-1, 1, 1) * normal + p["bias"].view(-1, 1, 1)


def batch_norm(p: Parameters, x: Tensor) -> Tensor:
    """In eval mode: with the running statistics."""
    mean, variance = (p[f"running_{name}"].view(-1, 1, 1) for name in ("mean", "var"))
    return normalize(p, x, mean, variance)


def layer_norm(p: Parameters, x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    return normalize(p, x, mean, ((x - mean) ** 2).mean(1, keepdim=True))


def project(p: Parameters, x: Tensor) -> Tensor:
    """``W x + b`` at every position."""
    out = torch.einsum("oc,bchw->bohw", p["weight"].flatten(1), x)
    return out + p["bias"].view(-1, 1, 1) if "bias" in p else out


def depth_wise(p: Parameters, x: Tensor) -> Tensor:
    """Each channel with its own k x k kernel, zeros outside: a sum of shifted products."""
    height, width = x.shape[-2:]
    reach = p["weight"].shape[-1] // 2
    padded = F.pad(x, [reach] * 4)
    out = p["bias"].view(-1, 1, 1).expand(x.shape)
    for i in range(2 * reach + 1):
        for j in range(2 * reach + 1):
            shifted = padded[..., i : i + height, j : j + width]
            out = out + p["weight"][:, 0, i, j].view(-1, 1, 1) * shifted
    return out


def halve(p: Parameters, x: Tensor) -> Tensor:
    """3x3 kernels at every second pixel, zeros outside: a sum of nine projections."""
    padded = F.pad(x, [1] * 4)
    rows, columns = x.shape[2], x.shape[3]
    out = p.get("bias", torch.zeros(1)).view(-1, 1, 1).to(x)
    for i in range(3):
        for j in range(3):
            shifted = padded[..., i : i + rows : 2, j : j + columns : 2]
            out = out + project({"weight": p["weight"][:, :, i, j]}, shifted)
    return out


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def softmax(x: Tensor) -> Tensor:
    """Over the last axis."""
    e = torch.exp(x - x.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def pool(x: Tensor, size: int) -> Tensor:
    """Means of ``size x size`` cells from floor(i n / size) to ceil((i + 1) n / size)."""

    def cells(n: int) -> list[slice]:
        return [slice(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]

    rows = [
        torch.stack([x[..., r, c].mean((2, 3)) for c in cells(x.shape[3])], -1)
        for r in cells(x.shape[2])
    ]
    return torch.stack(rows, -2)


def bilinear(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Sample centres at (i + 1/2) n / N - 1/2, held inside: one matrix of hats an axis."""

    def matrix(n: int, to: int) -> Tensor:
        centre = ((torch.arange(to, dtype=torch.float64) + 0.5) * n / to - 0.5).clamp(0, n - 1)
        return (1 - (centre[:, None] - torch.arange(n)).abs()).clamp(min=0).to(x)

    rows, columns = matrix(x.shape[2], size[0]), matrix(x.shape[3], size[1])
    return torch.einsum("ih,bchw,jw->bcij", rows, x, columns)


def global_branch(p: Parameters, u_rgb: Tensor, u_structure: Tensor, num_heads: int) -> Tensor:
    query = pool(project(part(p, "query"), torch.cat([u_rgb, u_structure], 1)), 7)
    w_key, w_value = p["key_value.weight"].chunk(2)
    key, value = project({"weight": w_key}, u_rgb), project({"weight": w_value}, u_rgb)
    query, key, value = (x.flatten(2).unflatten(1, (num_heads, -1)) for x in (query, key, value))
    logits = torch.einsum("bhdq,bhdp->bhqp", query, key) / math.sqrt(query.shape[2])
    answers = torch.einsum("bhqp,bhdp->bhdq", softmax(logits), value)
    return bilinear(answers.flatten(1, 2).unflatten(2, (7, 7)), u_rgb.shape[2:])


def structure_gate(p: Parameters, u_rgb: Tensor, u_structure: Tensor) -> Tensor:
    gate = depth_wise(part(p, "gate_context"), project(part(p, "gate"), u_structure))
    return project(part(p, "local"), u_rgb) * gate


def large_kernel(p: Parameters, u_rgb: Tensor) -> Tensor:
    gate = depth_wise(part(p, "gate_context"), gelu(project(part(p, "gate"), u_rgb)))
    return project(part(p, "local"), u_rgb) * gate


def mlp(p: Parameters, x: Tensor) -> Tensor:
    hidden = gelu(depth_wise(part(p, "mix"), project(part(p, "expand"), x)))
    return project(part(p, "reduce"), hidden)


def fusion_enhancement_block(
    p: Parameters, x_rgb: Tensor, x_structure: Tensor, num_heads: int
) -> tuple[Tensor, Tensor]:
    u_rgb = layer_norm(part(p, "norm_rgb"), x_rgb)
    u_structure = layer_norm(part(p, "norm_structure"), x_structure)
    pieces = [
        global_branch(part(p, "branches.global_context"), u_rgb, u_structure, num_heads),
        structure_gate(part(p, "branches.structure_gate"), u_rgb, u_structure),
    ]
    if large := part(p, "branches.large_kernel"):
        pieces.append(large_kernel(large, u_rgb))
    y = torch.cat(pieces, 1)
    out = []
    for name, x in (("rgb", x_rgb), ("structure", x_structure)):
        gamma = p[f"out_{name}.gamma"].view(-1, 1, 1)
        x = x + gamma * project(part(p, f"out_{name}"), y)
        gamma = p[f"mlp_{name}.reduce.gamma"].view(-1, 1, 1)
        hidden = layer_norm(part(p, f"mlp_norm_{name}"), x)
        out.append(x + gamma * mlp(part(p, f"mlp_{name}"), hidden))
    return out[0], out[1]


def channel_gate(p: Parameters, z: Tensor) -> Tensor:
    attention = softmax(project(part(p, "attend"), z).flatten(2))  # over all positions
    descriptor = (attention * z.flatten(2)).sum(-1)
    hidden = gelu(descriptor @ p["gate.0.weight"].T + p["gate.0.bias"])
    return torch.sigmoid(hidden @ p["gate.2.weight"].T + p["gate.2.bias"])[..., None, None]


def spatial_gate(p: Parameters, z: Tensor) -> Tensor:
    mix = softmax(z.mean((2, 3)) @ p["choose.weight"].T + p["choose.bias"])  # over channels
    return torch.sigmoid((mix[..., None, None] * z).sum(1, keepdim=True))


def feature_recalibration(
    p: Parameters, x_rgb: Tensor, x_structure: Tensor, f_rgb: Tensor, f_structure: Tensor
) -> tuple[Tensor, Tensor]:
    norm_rgb, norm_structure = part(p, "norm_rgb"), part(p, "norm_structure")
    if "channel_rgb.attend.weight" not in p:
        return layer_norm(norm_rgb, f_rgb), layer_norm(norm_structure, f_structure)
    z = torch.cat([x_rgb, x_structure], 1)
    g_rgb = channel_gate(part(p, "channel_rgb"), z)
    g_structure = channel_gate(part(p, "channel_structure"), z)
    x_rgb, x_structure = g_rgb * x_rgb + x_structure, g_structure * x_structure + x_rgb
    if "spatial_rgb.choose.weight" in p:
        z = torch.cat([x_rgb, x_structure], 1)
        s_rgb = spatial_gate(part(p, "spatial_rgb"), z)
        s_structure = spatial_gate(part(p, "spatial_structure"), z)
        x_rgb, x_structure = s_rgb * x_rgb + x_structure, s_structure * x_structure + x_rgb
    pair = torch.cat([x_rgb + f_rgb, x_structure + f_structure], 1)
    out_rgb = layer_norm(norm_rgb, project(part(p, "out_rgb"), pair))
    return out_rgb, layer_norm(norm_structure, project(part(p, "out_structure"), pair))


def mlp_head(p: Parameters, pyramid: list[Tensor]) -> Tensor:
    """In eval mode: running statistics, no dropout."""
    projected = [project({"weight": p[f"project.{i}.weight"]}, x) for i, x in enumerate(pyramid)]
    fused = torch.stack([bilinear(x, pyramid[0].shape[2:]) for x in projected]).sum(0)
    return project(part(p, "classify"), torch.relu(batch_norm(part(p, "norm"), fused)))


def token_join(p: Parameters, stage: int, tokens: list[Tensor], size: tuple[int, ...]) -> Tensor:
    """In eval mode: layer i, or the only one, for stage i."""
    own = tokens[stage] if len(tokens) > 1 else tokens[0]
    normal = batch_norm(part(p, f"stages.{stage}.0"), own)
    return bilinear(project(part(p, f"stages.{stage}.1"), normal), size)


def stem(p: Parameters, x: Tensor) -> Tensor:
    normal = (x - p["normalize.mean"]) / p["normalize.std"]
    p = part(p, "stem.layers")
    hidden = gelu(batch_norm(part(p, "1"), halve(part(p, "0"), normal)))
    return batch_norm(part(p, "4"), halve(part(p, "3"), hidden))


def encoder(
    p: Parameters,
    x_rgb: Tensor,
    x_structure: Tensor,
    tokens_rgb: list[list[Tensor]],
    tokens_structure: list[list[Tensor]],
    num_heads: tuple[int, ...],
) -> list[Tensor]:
    """In eval mode, with one FE block a stage; tokens are those of each picture's layers."""
    pyramid = []
    for i, heads in enumerate(num_heads):
        streams = []
        for name, x, tokens in (
            ("rgb", x_rgb, tokens_rgb),
            ("structure", x_structure, tokens_structure),
        ):
            branch = part(p, name)
            if i == 0:
                x = stem(branch, x)
            else:
                down = part(branch, f"down.{i - 1}")
                x = halve(part(down, "1"), batch_norm(part(down, "0"), x))
            size = x.shape[2:]
            for k, layers in enumerate(tokens):
                x = x + token_join(part(branch, f"joins.{k}"), i, layers, size)
            streams.append(x)
        x_rgb, x_structure = streams
        fused = fusion_enhancement_block(
            part(p, f"enhance.{i}.blocks.0"), x_rgb, x_structure, heads
        )
        x_rgb, x_structure = feature_recalibration(
            part(p, f"recalibrate.{i}"), x_rgb, x_structure, *fused
        )
        pyramid.append(torch.cat([x_rgb, x_structure], 1))
    return pyramid
