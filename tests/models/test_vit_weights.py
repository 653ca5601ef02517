"""Official weights files: names, hashes, layouts, download on request."""

import functools
import http.server
import math
import threading
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from models.frozen_vit import load_frozen_vit, published_weights
from models.vit_weights import OfficialFile, fetch_weights, find_weights
from utils.errors import ConfigError, DataError, MissingDataError

Weights = dict[str, Tensor]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def official(**changes) -> OfficialFile:
    fields = {"file": "a.pth", "source": "S", "licence": "L", "url": None, "sha256": None}
    return OfficialFile(**{**fields, **changes})


@pytest.mark.parametrize("size", ["small", "base", "large", "giant"])
@pytest.mark.parametrize("registers", ["", "_reg4"])
def test_dinov2_files_have_their_official_names_and_address(size, registers):
    found = published_weights(f"vit_{size}_patch14{registers}_dinov2")
    stem = f"dinov2_vit{size[0]}14"
    assert found.file == f"{stem}{registers}_pretrain.pth"
    assert found.url == f"https://dl.fbaipublicfiles.com/dinov2/{stem}/{found.file}"
    assert found.licence == "apache-2.0"


def test_dinov3_files_carry_the_beginning_of_their_hash():
    web = published_weights("vit_large_patch16_dinov3")
    satellite = published_weights("vit_large_patch16_dinov3.sat493m")
    with_bias = published_weights("vit_large_patch16_dinov3_qkvb.sat493m")
    assert (web.file, web.sha256) == ("dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth", "8aa4cbdd")
    assert satellite.file == with_bias.file == "dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth"
    assert web.url is None and web.licence == "DINOv3 License"


def test_satellite_weights_come_with_their_own_normalisation():
    with torch.device("meta"):
        web, satellite = (
            timm.create_model(f"vit_large_patch16_dinov3{tag}", num_classes=0)
            for tag in ("", ".sat493m")
        )
    assert web.pretrained_cfg["mean"] != satellite.pretrained_cfg["mean"]


def test_any_other_vit_is_looked_for_under_its_own_name():
    found = published_weights("vit_base_patch16_clip_224.openai")
    assert found.file == "vit_base_patch16_clip_224.openai.safetensors"
    assert found.source.startswith("https://huggingface.co/timm/vit_base_patch16_clip_224.openai")


def test_missing_file_says_which_from_where_which_licence_and_where_to():
    with pytest.raises(MissingDataError) as error:
        find_weights("N", None, published_weights("vit_large_patch16_dinov3.sat493m"))
    assert str(error.value) == (
        "the weights of N are not at weights/dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth; get "
        "dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth from "
        "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/ (licence: DINOv3 "
        "License) and put it there"
    )


def test_a_known_hash_is_checked(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"weights")
    digest = "9b6a4bb4"  # not that of the file
    with pytest.raises(
        DataError, match=f"a.pth is damaged: its SHA-256 should begin with {digest}"
    ):
        find_weights("N", str(path), official(sha256=digest))
    assert find_weights("N", str(path), official()) == path


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.pth").write_bytes(b"weights")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/a.pth"
        running.shutdown()


def test_download_on_request_shows_address_and_licence_and_is_done_once(server, capsys):
    file = official(url=server)
    fetch_weights("N", file)
    assert Path("weights/a.pth").read_bytes() == b"weights"
    assert f"downloading a.pth from {server} (licence: L)" in capsys.readouterr().out
    fetch_weights("N", file)
    assert capsys.readouterr().out == ""


def test_failed_download_leaves_nothing(server):
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch_weights("N", official(url=server.replace("a.pth", "b.pth")))
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch_weights("N", official(url=server, sha256="00000000"))
    assert list(Path("weights").iterdir()) == []


def test_download_needs_a_direct_address():
    with pytest.raises(ConfigError, match="have no direct address"):
        fetch_weights("N", official())


def random_like(shapes: dict[str, tuple[int, ...]]) -> Weights:
    """Fixed random weights under official names; norms and layer scales about 1."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        weights[name] = 0.1 * torch.randn(shape, generator=generator)
        if ("norm" in name and name.endswith("weight")) or name.endswith("gamma"):
            weights[name] += 1
    return weights


def block_shapes(i: int, dim: int, hidden: int, swiglu: bool) -> dict[str, tuple[int, ...]]:
    mlp = {"w12": (2 * hidden, dim), "w3": (dim, hidden)}
    if not swiglu:
        mlp = {"fc1": (hidden, dim), "fc2": (dim, hidden)}
    shapes: dict[str, tuple[int, ...]] = {
        "attn.qkv.weight": (3 * dim, dim),
        "attn.qkv.bias": (3 * dim,),
    }
    shapes |= {"attn.proj.weight": (dim, dim), "attn.proj.bias": (dim,)}
    for name in (
        "norm1.weight",
        "norm1.bias",
        "norm2.weight",
        "norm2.bias",
        "ls1.gamma",
        "ls2.gamma",
    ):
        shapes[name] = (dim,)
    for name, shape in mlp.items():
        shapes |= {f"mlp.{name}.weight": shape, f"mlp.{name}.bias": shape[:1]}
    return {f"blocks.{i}.{name}": shape for name, shape in shapes.items()}


def norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def attention(w: Weights, name: str, x: Tensor, heads: int, turn=lambda q: q) -> Tensor:
    batch, count, dim = x.shape
    qkv = linear(w, f"{name}.qkv", x).view(batch, count, 3, heads, dim // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    q, k = turn(q), turn(k)
    out = (q @ k.mT / math.sqrt(dim // heads)).softmax(-1) @ v
    return linear(w, f"{name}.proj", out.transpose(1, 2).flatten(2))


def blocks(w: Weights, x: Tensor, depth: int, heads: int, eps: float, turn=lambda q: q) -> Tensor:
    for i in range(depth):
        b = f"blocks.{i}"
        y = attention(w, f"{b}.attn", norm(w, f"{b}.norm1", x, eps), heads, turn)
        x = x + w[f"{b}.ls1.gamma"] * y
        y = norm(w, f"{b}.norm2", x, eps)
        if f"{b}.mlp.w12.weight" in w:
            gate, value = linear(w, f"{b}.mlp.w12", y).chunk(2, -1)
            y = linear(w, f"{b}.mlp.w3", F.silu(gate) * value)
        else:
            y = linear(w, f"{b}.mlp.fc2", F.gelu(linear(w, f"{b}.mlp.fc1", y)))
        x = x + w[f"{b}.ls2.gamma"] * y
    return norm(w, "norm", x, eps)


def embed(w: Weights, picture: Tensor, mean: Tensor, std: Tensor, patch: int) -> Tensor:
    x = (picture - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch)
    return x.flatten(2).mT


def dinov2_tokens(w: Weights, x: Tensor, depth: int, heads: int) -> Tensor:
    """Official forward: class token and positions, registers after the class token, blocks."""
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
    if "register_tokens" in w:
        registers = w["register_tokens"].expand(len(x), -1, -1)
        x = torch.cat([x[:, :1], registers, x[:, 1:]], 1)
    prefix = 1 + (w["register_tokens"].shape[1] if "register_tokens" in w else 0)
    return blocks(w, x, depth, heads, 1e-6)[:, prefix:]


@pytest.mark.parametrize(
    ("name", "swiglu"),
    [
        ("vit_small_patch14_dinov2", False),
        ("vit_small_patch14_reg4_dinov2", False),
        ("vit_giant_patch14_reg4_dinov2", True),
    ],
)
def test_official_dinov2_layout_gives_the_official_tokens(name, swiglu, tmp_path, monkeypatch):
    """Narrow and shallow, on the 37x37 grid of the published position embedding."""
    dim, depth, heads, hidden, grid = 32, 2, 4, 88 if swiglu else 128, 37
    create = timm.create_model
    small = {"embed_dim": dim, "depth": depth, "num_heads": heads}
    if swiglu:
        small["mlp_ratio"] = 2 * hidden / dim
    monkeypatch.setattr(timm, "create_model", lambda n, **kwargs: create(n, **kwargs, **small))
    shapes = {"cls_token": (1, 1, dim), "mask_token": (1, dim), "pos_embed": (1, grid**2 + 1, dim)}
    shapes |= {"patch_embed.proj.weight": (dim, 3, 14, 14), "patch_embed.proj.bias": (dim,)}
    shapes |= {"norm.weight": (dim,), "norm.bias": (dim,)}
    if "reg4" in name:
        shapes["register_tokens"] = (1, 4, dim)
    for i in range(depth):
        shapes |= block_shapes(i, dim, hidden, swiglu)
    weights = random_like(shapes)
    torch.save(weights, tmp_path / "official.pth")
    vit = load_frozen_vit(name, str(tmp_path / "official.pth"))
    picture = torch.rand(1, 3, 14 * grid, 14 * grid)
    mean, std = vit.normalize.mean.flatten(), vit.normalize.std.flatten()
    expected = dinov2_tokens(weights, embed(weights, picture, mean, std, 14), depth, heads)
    ours = vit(picture).flatten(2).mT
    assert ((ours - expected).norm() / expected.norm()).item() < 1e-5


def dinov3_turn(periods: Tensor, grid: tuple[int, int], prefix: int):
    """Rotary positions: patch centres in [-1, 1], 2 pi / period, on patch tokens only."""
    axes = [2 * (torch.arange(n) + 0.5) / n - 1 for n in grid]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
    angles = 2 * math.pi * centres[:, :, None] / periods  # (N, 2, D/4)
    angles = angles.flatten(1).tile(2)
    sin, cos = angles.sin(), angles.cos()

    def turn(q: Tensor) -> Tensor:
        head, rest = q[:, :, :prefix], q[:, :, prefix:]
        first, second = rest.chunk(2, -1)
        rest = rest * cos + torch.cat([-second, first], -1) * sin
        return torch.cat([head, rest], 2)

    return turn


def test_official_dinov3_layout_gives_the_official_tokens(tmp_path, monkeypatch):
    dim, depth, heads, hidden, grid = 64, 2, 2, 256, (3, 5)
    create = timm.create_model
    small = {"embed_dim": dim, "depth": depth, "num_heads": heads}
    monkeypatch.setattr(timm, "create_model", lambda n, **kwargs: create(n, **kwargs, **small))
    shapes = {"cls_token": (1, 1, dim), "mask_token": (1, dim), "storage_tokens": (1, 4, dim)}
    shapes |= {"patch_embed.proj.weight": (dim, 3, 16, 16), "patch_embed.proj.bias": (dim,)}
    shapes |= {"norm.weight": (dim,), "norm.bias": (dim,)}
    for i in range(depth):
        shapes |= block_shapes(i, dim, hidden, swiglu=False)
    weights = random_like(shapes)
    width = dim // heads
    weights["rope_embed.periods"] = 100 ** (2 * torch.arange(width // 4) / (width // 2))
    for i in range(depth):  # the key's part of the bias is masked out
        weights[f"blocks.{i}.attn.qkv.bias"][dim : 2 * dim] = 0
        weights[f"blocks.{i}.attn.qkv.bias_mask"] = torch.ones(3 * dim)
    torch.save(weights, tmp_path / "official.pth")
    vit = load_frozen_vit("vit_small_patch16_dinov3_qkvb", str(tmp_path / "official.pth"))
    picture = torch.rand(2, 3, 16 * grid[0], 16 * grid[1])
    mean, std = vit.normalize.mean.flatten(), vit.normalize.std.flatten()
    x = embed(weights, picture, mean, std, 16)
    prefix = [weights[name].expand(2, -1, -1) for name in ("cls_token", "storage_tokens")]
    x = torch.cat([*prefix, x], 1)
    turn = dinov3_turn(weights["rope_embed.periods"], grid, 5)
    expected = blocks(weights, x, depth, heads, 1e-5, turn)[:, 5:]
    ours = vit(picture).flatten(2).mT
    assert ((ours - expected).norm() / expected.norm()).item() < 1e-4
