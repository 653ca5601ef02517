"""Depth Anything's weights: official names, hashes and layouts; no real weights are run here."""

import math

import pytest
import torch

from models.structure.depth_anything import DepthAnythingNetwork, load_depth_anything
from models.weights import official_depth_anything
from tests.models.structure.depth_reference import (
    CPU,
    LAYERS,
    Weights,
    fill,
    official_layout,
    official_weights,
)
from utils.errors import DataError, MissingDataError


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load a network from a file that holds what is given."""

    def load(model_type: str, weights: Weights, name: str = "mine.pth") -> DepthAnythingNetwork:
        return fill(model_type, weights, tmp_path / name, monkeypatch)

    return load


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_the_network_has_exactly_the_official_parameters(size, load):
    layout = official_layout(size)
    weights = {name: torch.zeros(1).expand(shape) for name, shape in layout.items()}
    network = load(f"v2_{size}", weights)
    loaded = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert loaded == {k: v for k, v in layout.items() if k != "pretrained.mask_token"}
    assert not any(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()])
    name = "depth_head.scratch.refinenet4.resConfUnit1.conv1.bias"
    with pytest.raises(DataError, match=rf"v2_{size}: 1 missing \(first: {name}\); get depth"):
        load(f"v2_{size}", {k: v for k, v in weights.items() if k != name})


@pytest.mark.parametrize(
    ("size", "millions", "num_tensors"),
    [("small", 24.8, 239), ("base", 97.5, 239), ("large", 335.3, 407)],
)
def test_layouts_have_the_published_numbers_and_fill_the_official_files(
    size, millions, num_tensors
):
    """A file is four bytes a parameter and the same little for every tensor of its archive."""
    layout = official_layout(size)
    count = sum(math.prod(shape) for shape in layout.values())
    assert round(count / 1e6, 1) == millions and len(layout) == num_tensors
    for version in ("v1", "v2"):
        num_bytes = official_depth_anything(f"{version}_{size}").num_bytes
        if num_bytes is not None:
            assert 320 < (num_bytes - 4 * count) / num_tensors < 345


def test_official_files_have_their_addresses_and_licences():
    found = {name: official_depth_anything(name) for name in LAYERS}
    assert found["v2_base"].url == (
        "https://huggingface.co/depth-anything/Depth-Anything-V2-Base/resolve/main/"
        "depth_anything_v2_vitb.pth"
    )
    assert found["v1_large"].url == (
        "https://huggingface.co/spaces/LiheYoung/Depth-Anything/resolve/main/checkpoints/"
        "depth_anything_vitl14.pth"
    )
    not_free = [name for name, file in found.items() if file.licence == "CC-BY-NC-4.0"]
    assert not_free == ["v2_base", "v2_large"]
    assert {file.licence for file in found.values()} == {"Apache-2.0", "CC-BY-NC-4.0"}
    hashes = {name: file.sha256 for name, file in found.items() if file.sha256}
    assert set(hashes) == {"v1_large", "v2_small", "v2_base", "v2_large"}
    assert all(len(digest) == 64 for digest in hashes.values()) and len(set(hashes.values())) == 4


def test_a_missing_file_says_which_from_where_and_under_which_licence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sentence = (
        r"the weights of Depth Anything v2_large are not at weights/depth_anything_v2_vitl\.pth; "
        r"get depth_anything_v2_vitl\.pth from https://huggingface\.co/depth-anything/"
        r"Depth-Anything-V2-Large/resolve/main/depth_anything_v2_vitl\.pth \(licence: CC-BY-NC-4\.0"
    )
    with pytest.raises(MissingDataError, match=sentence):
        load_depth_anything("v2_large", None, CPU)


def test_an_official_name_with_other_bytes_is_refused(tmp_path):
    path = tmp_path / "depth_anything_v2_vits.pth"
    path.write_bytes(b"part of it")
    with pytest.raises(DataError, match=r"is damaged: its SHA-256 should begin with 715fade1"):
        load_depth_anything("v2_small", str(path), CPU)


def test_files_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "mine.pth"
    path.write_bytes(b"no weights")
    with pytest.raises(DataError, match=r"mine\.pth cannot be read as PyTorch weights"):
        load_depth_anything("v2_small", str(path), CPU)
    torch.save([1, 2], path)
    with pytest.raises(DataError, match="holds something other than named tensors"):
        load_depth_anything("v2_small", str(path), CPU)
    layout = official_layout("small")
    weights = {name: torch.zeros(1).expand(shape) for name, shape in layout.items()}
    weights["pretrained.norm.bias"] = torch.zeros(3)
    weights["a"] = weights.pop("pretrained.cls_token")
    torch.save(weights, path)
    sentence = (
        r"mine\.pth does not hold weights of Depth Anything v2_small: 1 missing \(first: "
        r"pretrained\.cls_token\), 1 unexpected \(first: a\), 1 of another shape \(first: "
        r"pretrained\.norm\.bias \(3,\) for \(384,\)\); get depth_anything_v2_vits\.pth from https://"
    )
    with pytest.raises(DataError, match=sentence):
        load_depth_anything("v2_small", str(path), CPU)


def test_weights_of_another_version_or_of_metric_depth_are_refused(load):
    """The versions have one layout: only names and hashes tell them apart."""
    weights = {
        name: torch.zeros(1).expand(shape) for name, shape in official_layout("large").items()
    }
    with pytest.raises(
        DataError, match=r"is the official file depth_anything_vitl14\.pth, and Depth"
    ):
        load("v2_large", weights, "depth_anything_vitl14.pth")
    with pytest.raises(DataError, match="named like weights of metric depth"):
        load("v2_large", weights, "depth_anything_v2_metric_vkitti_vitl.pth")


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_gives_its_weights_as_single_precision(is_zip, tmp_path):
    weights = {name: tensor.half() for name, tensor in official_weights("small").items()}
    path = tmp_path / "mine.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=is_zip)
    before = torch.random.get_rng_state()
    network, digest = load_depth_anything("v2_small", str(path), CPU)
    assert len(digest) == 64 and not network.training
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, weights[name].float()), name
    assert not any(parameter.requires_grad for parameter in network.parameters())
