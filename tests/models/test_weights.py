"""Official weights files: names, hashes, layouts, download on request."""

import functools
import hashlib
import http.server
import math
import threading
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from models import weights as weights_module
from models.frozen_vit import FrozenViT, load_frozen_vit, published_weights
from models.weights import OfficialFile, check_layout, fetch_weights, find_weights
from utils.errors import ConfigError, DataError, MissingDataError

Weights = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
Three = tuple[float, float, float]

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SATELLITE = (0.430, 0.411, 0.296), (0.213, 0.156, 0.143)  # as facebookresearch/dinov3 says


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def official(**changes) -> OfficialFile:
    fields = {"model": "N", "file": "a.pth", "source": "S", "licence": "L"}
    return OfficialFile(**{**fields, **changes})


@pytest.mark.parametrize("size", ["small", "base", "large", "giant"])
@pytest.mark.parametrize("registers", ["", "_reg4"])
def test_dinov2_files_have_their_official_names_and_address(size, registers):
    found = published_weights(f"vit_{size}_patch14{registers}_dinov2")
    stem = f"dinov2_vit{size[0]}14"
    assert found.file == f"{stem}{registers}_pretrain.pth"
    assert found.url == f"https://dl.fbaipublicfiles.com/dinov2/{stem}/{found.file}"
    assert found.licence == "apache-2.0"
    assert len(found.sha256) == 64


def test_dinov3_files_carry_the_beginning_of_their_hash():
    web = published_weights("vit_large_patch16_dinov3")
    satellite = published_weights("vit_large_patch16_dinov3.sat493m")
    with_bias = published_weights("vit_large_patch16_dinov3_qkvb.sat493m")
    assert (web.file, web.sha256) == ("dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth", "8aa4cbdd")
    assert satellite.file == with_bias.file == "dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth"
    assert web.url is None and web.licence == "DINOv3 License"
    assert published_weights("vit_7b_patch16_dinov3.sat493m").sha256 == "a6675841"


def test_any_other_vit_is_looked_for_under_its_own_name():
    found = published_weights("vit_base_patch16_clip_224.openai")
    assert found.file == "vit_base_patch16_clip_224.openai.safetensors"
    assert found.source.startswith("https://huggingface.co/timm/vit_base_patch16_clip_224.openai")
    assert "model.<branch>.weights may name another path" in found.source


def test_missing_file_says_which_from_where_which_licence_and_where_to():
    with pytest.raises(MissingDataError) as error:
        find_weights(None, published_weights("vit_large_patch16_dinov3.sat493m"))
    assert str(error.value) == (
        "the weights of vit_large_patch16_dinov3.sat493m are not at "
        "weights/dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth; get "
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
        find_weights(str(path), official(sha256=digest))
    digest = hashlib.sha256(b"weights").hexdigest()
    assert find_weights(str(path), official(sha256=digest[:8])) == (path, digest)
    other = path.rename(tmp_path / "b.pth")  # not said to be the official file
    assert find_weights(str(other), official(sha256="00000000")) == (other, digest)


@pytest.mark.parametrize("by_name", [True, False])
def test_the_official_file_of_another_model_is_refused(tmp_path, monkeypatch, by_name):
    """Two versions of a network can have the same layout."""
    path = tmp_path / ("sam_vit_l_0b3195.pth" if by_name else "mine.pth")
    path.write_bytes(b"weights")
    if not by_name:
        digest = hashlib.sha256(b"weights").hexdigest()
        monkeypatch.setitem(weights_module._KNOWN_SHA256, "sam_vit_l_0b3195.pth", digest)
    with pytest.raises(DataError, match=r"official file sam_vit_l_0b3195\.pth, and N needs a\.pth"):
        find_weights(str(path), official())


def test_layout_check_counts_and_names_every_difference():
    wanted = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1)}
    check_layout(wanted, dict(reversed(wanted.items())), refusal="R", remedy="M")
    found = {"a": torch.zeros(2), "c": torch.zeros(1, 1), "d": torch.zeros(1), "e": torch.zeros(1)}
    with pytest.raises(DataError) as error:
        check_layout(wanted, found, refusal="R", remedy="M")
    assert str(error.value) == (
        "R: 1 missing (first: b), 2 unexpected (first: d), 1 of another shape "
        "(first: c (1, 1) for (1,)); M"
    )


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


def test_a_file_with_an_address_may_be_fetched_by_two_scripts():
    scripts = r"train\.py \(frozen ViTs\) or generate\.py \(generators\)"
    with pytest.raises(MissingDataError, match=f"it there, or run {scripts} with --download$"):
        find_weights(None, official(url="U"))


def test_download_on_request_shows_size_licence_and_address_and_is_done_once(server, capsys):
    Path("served/a.pth").write_bytes(b"weights" * 30_000)
    fetch_weights(official(url=server))
    assert Path("weights/a.pth").read_bytes() == b"weights" * 30_000
    assert capsys.readouterr().out == f"downloading a.pth (0.2 MB, licence: L) from {server}\n"
    fetch_weights(official(url=server, num_bytes=2_564_550_879))
    assert capsys.readouterr().out == ""


def test_failed_download_leaves_nothing(server):
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch_weights(official(url=server.replace("a.pth", "b.pth")))
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch_weights(official(url=server, sha256="00000000"))
    assert list(Path("weights").iterdir()) == []


def test_download_needs_a_direct_address():
    with pytest.raises(ConfigError, match="have no direct URL"):
        fetch_weights(official())


def random_like(shapes: Shapes) -> Weights:
    """Fixed random weights under official names; norms and layer scales about 1."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        weights[name] = 0.1 * torch.randn(shape, generator=generator)
        if ("norm" in name and name.endswith("weight")) or name.endswith("gamma"):
            weights[name] += 1
    return weights


def block_shapes(i: int, dim: int, mlp: Shapes) -> Shapes:
    linear = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim)}
    linear |= {f"mlp.{name}": shape for name, shape in mlp.items()}
    shapes: Shapes = {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
        shapes[name] = (dim,)
    shapes |= {"ls1.gamma": (dim,), "ls2.gamma": (dim,)}
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
        elif f"{b}.mlp.w1.weight" in w:
            gate, value = linear(w, f"{b}.mlp.w1", y), linear(w, f"{b}.mlp.w2", y)
            y = linear(w, f"{b}.mlp.w3", F.silu(gate) * value)
        else:
            y = linear(w, f"{b}.mlp.fc2", F.gelu(linear(w, f"{b}.mlp.fc1", y)))
        x = x + w[f"{b}.ls2.gamma"] * y
    return norm(w, "norm", x, eps)


def embed(w: Weights, picture: Tensor, mean: Three, std: Three, patch: int) -> Tensor:
    x = (picture - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch)
    return x.flatten(2).mT


def dinov2_tokens(w: Weights, x: Tensor, heads: int, grid: tuple[int, int]) -> Tensor:
    """Official forward: class token and positions, registers after the class token, blocks."""
    first, positions = w["pos_embed"][:, :1], w["pos_embed"][:, 1:]
    if grid != (37, 37):  # as with registers: antialiased, to the exact size
        positions = positions.mT.unflatten(2, (37, 37))
        positions = F.interpolate(positions, grid, mode="bicubic", antialias=True).flatten(2).mT
    x = torch.cat([w["cls_token"] + first, x + positions], 1)
    prefix = 1
    if "register_tokens" in w:
        x = torch.cat([x[:, :1], w["register_tokens"], x[:, 1:]], 1)
        prefix += w["register_tokens"].shape[1]
    return blocks(w, x, 2, heads, 1e-6)[:, prefix:]


def make_small(monkeypatch: pytest.MonkeyPatch, **sizes) -> None:
    """Two narrow blocks from now on, whatever timm is asked for."""
    create, small = timm.create_model, {"depth": 2, **sizes}
    monkeypatch.setattr(timm, "create_model", lambda name, **more: create(name, **more, **small))


def common_shapes(dim: int, patch: int) -> Shapes:
    shapes = {"cls_token": (1, 1, dim), "mask_token": (1, dim), "norm.weight": (dim,)}
    shapes |= {"norm.bias": (dim,), "patch_embed.proj.bias": (dim,)}
    return {**shapes, "patch_embed.proj.weight": (dim, 3, patch, patch)}


def relative_error(vit: FrozenViT, picture: Tensor, expected: Tensor) -> float:
    return ((vit(picture).flatten(2).mT - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("vit_small_patch14_dinov2", (37, 37)),
        ("vit_small_patch14_reg4_dinov2", (37, 37)),
        ("vit_small_patch14_reg4_dinov2", (9, 14)),
        ("vit_giant_patch14_reg4_dinov2", (37, 37)),
    ],
)
def test_official_dinov2_layout_gives_the_official_tokens(name, grid, tmp_path, monkeypatch):
    """With the 37x37 grid of the published position embedding."""
    dim, heads = 32, 4
    if "giant" in name:
        mlp = {"w12": (176, dim), "w3": (dim, 88)}
        make_small(monkeypatch, embed_dim=dim, num_heads=heads, mlp_ratio=176 / dim)
    else:
        mlp = {"fc1": (128, dim), "fc2": (dim, 128)}
        make_small(monkeypatch, embed_dim=dim, num_heads=heads)
    shapes = common_shapes(dim, 14) | {"pos_embed": (1, 37**2 + 1, dim)}
    if "reg4" in name:
        shapes["register_tokens"] = (1, 4, dim)
    weights = random_like(shapes | block_shapes(0, dim, mlp) | block_shapes(1, dim, mlp))
    torch.save(weights, tmp_path / "official.pth")
    vit = load_frozen_vit(name, str(tmp_path / "official.pth"))
    picture = torch.rand(1, 3, 14 * grid[0], 14 * grid[1])
    expected = dinov2_tokens(weights, embed(weights, picture, *IMAGENET, 14), heads, grid)
    assert relative_error(vit, picture, expected) < 1e-5


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


@pytest.mark.parametrize(
    ("name", "mlp"),
    [
        ("vit_small_patch16_dinov3_qkvb", {"fc1": (256, 64), "fc2": (64, 256)}),
        ("vit_large_patch16_dinov3_qkvb.sat493m", {"fc1": (256, 64), "fc2": (64, 256)}),
        ("vit_huge_plus_patch16_dinov3_qkvb", {"w1": (256, 64), "w2": (256, 64), "w3": (64, 256)}),
    ],
)
def test_official_dinov3_layout_gives_the_official_tokens(name, mlp, tmp_path, monkeypatch):
    dim, heads, grid = 64, 2, (3, 5)
    make_small(monkeypatch, embed_dim=dim, num_heads=heads, mlp_ratio=4)
    shapes = common_shapes(dim, 16) | {"storage_tokens": (1, 4, dim)}
    if "sat493m" in name:  # a norm that only training uses
        shapes |= {"local_cls_norm.weight": (dim,), "local_cls_norm.bias": (dim,)}
    weights = random_like(shapes | block_shapes(0, dim, mlp) | block_shapes(1, dim, mlp))
    # Published rounded to bfloat16.
    weights["rope_embed.periods"] = (100 ** (torch.arange(8) / 8)).bfloat16()
    mask = torch.ones(3 * dim)
    mask[dim : 2 * dim] = 0
    masked = dict(weights)
    for i in range(2):
        bias = f"blocks.{i}.attn.qkv.bias"
        weights[f"{bias}_mask"], masked[bias] = mask, mask * weights[bias]
    torch.save(weights, tmp_path / "official.pth")
    vit = load_frozen_vit(name, str(tmp_path / "official.pth"))
    picture = torch.rand(2, 3, 16 * grid[0], 16 * grid[1])
    x = embed(masked, picture, *(SATELLITE if "sat493m" in name else IMAGENET), 16)
    prefix = [weights[token].expand(2, -1, -1) for token in ("cls_token", "storage_tokens")]
    turn = dinov3_turn(weights["rope_embed.periods"].float(), grid, 5)
    expected = blocks(masked, torch.cat([*prefix, x], 1), 2, heads, 1e-5, turn)[:, 5:]
    assert relative_error(vit, picture, expected) < 1e-5
