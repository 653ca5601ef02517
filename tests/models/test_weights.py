"""Official weights files: names, hashes, layouts, download on request."""

import functools
import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models import weights as weights_module
from models.frozen_vit import published_weights
from models.weights import (
    OfficialFile,
    check_layout,
    fetch_weights,
    find_weights,
    official_depth_anything,
    official_sam,
    read_state_dict,
)
from utils.errors import ConfigError, DataError, MissingDataError


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def official(**changes) -> OfficialFile:
    fields = {"model": "N", "file": "a.pth", "source": "https://b/a.pth", "licence": "L"}
    return OfficialFile(**{**fields, **changes})


@pytest.fixture
def know(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Register the SHA-256 of a file."""
    return functools.partial(monkeypatch.setitem, weights_module._KNOWN_SHA256)


def test_dinov2_files_have_their_official_names_and_address():
    for size, registers in itertools.product(("small", "base", "large", "giant"), ("", "_reg4")):
        found = published_weights(f"vit_{size}_patch14{registers}_dinov2")
        stem = f"dinov2_vit{size[0]}14"
        assert found.source == (
            f"https://dl.fbaipublicfiles.com/dinov2/{stem}/{stem}{registers}_pretrain.pth"
        )
        assert found.licence == "apache-2.0" and found.is_direct and len(found.sha256) == 64


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("vit_large_patch16_dinov3", "dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth"),
        ("vit_7b_patch16_dinov3.sat493m", "dinov3_vit7b16_pretrain_sat493m-a6675841.pth"),
    ],
)
def test_dinov3_files_end_in_the_beginning_of_their_hash(name, file):
    found = published_weights(name)
    assert (found.file, found.sha256) == (file, file[-12:-4])
    assert not found.is_direct and found.licence == "DINOv3 License"


def test_any_other_vit_is_looked_for_under_its_own_name():
    found = published_weights("vit_base_patch16_clip_224.openai")
    assert found.file == "vit_base_patch16_clip_224.openai.safetensors"
    assert found.source.startswith("https://huggingface.co/timm/vit_base_patch16_clip_224.openai")
    assert "model.<branch>.weights may name another path" in found.source


def test_files_of_generators_have_their_hashes_addresses_and_licences():
    found = [official_sam(name) for name in ("vit_b", "vit_l", "vit_h")]
    assert [(each.file[8:-4], each.sha256[:8]) for each in found] == [
        ("b_01ec64", "ec2df627"),
        ("l_0b3195", "3adcc431"),
        ("h_4b8939", "a7bf3b02"),
    ]
    hub = "https://huggingface.co"
    v2, v1 = official_depth_anything("v2_base"), official_depth_anything("v1_large")
    assert v2.source == (
        f"{hub}/depth-anything/Depth-Anything-V2-Base/resolve/main/depth_anything_v2_vitb.pth"
    )
    checkpoints = f"{hub}/spaces/LiheYoung/Depth-Anything/resolve/main/checkpoints"
    assert v1.source == f"{checkpoints}/depth_anything_vitl14.pth"
    assert (v2.sha256[:8], v1.sha256[:8]) == ("0d2b7002", "6c6a383e")
    types = [f"{version}_{size}" for version in ("v1", "v2") for size in ("small", "base", "large")]
    licences = {name: official_depth_anything(name).licence for name in types}
    not_free = [name for name, licence in licences.items() if licence == "CC-BY-NC-4.0"]
    assert not_free == ["v2_base", "v2_large"]


def test_missing_file_says_which_from_where_which_licence_and_where_to():
    with pytest.raises(MissingDataError) as error:
        find_weights(None, published_weights("vit_large_patch16_dinov3_qkvb.sat493m"))
    assert str(error.value) == (
        "the weights of vit_large_patch16_dinov3_qkvb.sat493m are not at "
        "weights/dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth; get "
        "dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth from "
        "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/ (licence: DINOv3 "
        "License) and put it there"
    )
    scripts = r"train\.py \(frozen ViTs\) or generate\.py \(generators\)"
    with pytest.raises(MissingDataError, match=f"put it there, or run {scripts} with --download$"):
        find_weights(None, official())


def test_a_known_hash_is_checked(tmp_path, know):
    path = tmp_path / "a.pth"
    path.write_bytes(b"weights")
    know("a.pth", "9b6a4bb4")  # not that of the file
    with pytest.raises(
        DataError, match=r"a\.pth is damaged: its SHA-256 should begin with 9b6a4bb4"
    ):
        find_weights(str(path), official())
    other = path.rename(tmp_path / "b.pth")  # not said to be the official file
    digest = hashlib.sha256(b"weights").hexdigest()
    assert find_weights(str(other), official()) == (other, digest)
    know("a.pth", digest[:8])
    assert find_weights(str(other.rename(path)), official()) == (path, digest)


@pytest.mark.parametrize("name", ["sam_vit_l_0b3195.pth", "mine.pth"])
def test_the_official_file_of_another_model_is_refused(know, name):
    """By its name, or by its hash: two versions of a network can have the same layout."""
    path = Path(name)
    path.write_bytes(b"weights")
    if name == "mine.pth":
        know("sam_vit_l_0b3195.pth", hashlib.sha256(b"weights").hexdigest())
    with pytest.raises(DataError, match=r"official file sam_vit_l_0b3195\.pth, and N needs a\.pth"):
        find_weights(str(path), official())


WEB = "dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth"
SATELLITE = "dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth"


@pytest.mark.parametrize("path", [None, WEB, SATELLITE, "mine.safetensors"])
@pytest.mark.parametrize(
    ("model", "needed", "other"),
    [
        ("vit_large_patch16_dinov3", WEB, SATELLITE),
        ("vit_large_patch16_dinov3_qkvb.lvd1689m", WEB, SATELLITE),
        ("vit_large_patch16_dinov3.sat493m", SATELLITE, WEB),
        ("vit_large_patch16_dinov3_qkvb.sat493m", SATELLITE, WEB),
    ],
)
def test_web_and_satellite_dinov3_are_never_confused(monkeypatch, model, needed, other, path):
    """They differ in the statistics of their inputs alone; the hash decides under every name."""
    file = Path(path or f"weights/{needed}")
    file.parent.mkdir(exist_ok=True)
    file.touch()
    monkeypatch.setattr(weights_module, "sha256_of", lambda _: f"{other[-12:-4]}{'0' * 56}")
    with pytest.raises(DataError, match=f"^{file} is the official file {other}, and {model} needs"):
        find_weights(path, published_weights(model))
    monkeypatch.setattr(weights_module, "sha256_of", lambda _: f"{needed[-12:-4]}{'0' * 56}")
    assert find_weights(path, published_weights(model))[0] == file


@pytest.mark.parametrize("is_zip", [True, False])
def test_both_formats_of_pytorch_are_read_and_other_content_is_refused(is_zip):
    path, weights = Path("a.pth"), {"a": torch.arange(3.0), "b": torch.ones(2).half()}
    torch.save(weights, path, _use_new_zipfile_serialization=is_zip)
    found = read_state_dict(path)
    assert list(found) == ["a", "b"] and all(torch.equal(found[k], weights[k]) for k in weights)
    torch.save({"a": 3}, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(DataError, match=r"^a\.pth holds something other than named tensors"):
        read_state_dict(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"^a\.pth cannot be read as PyTorch weights \("):
        read_state_dict(path)


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


def test_download_on_request_shows_licence_and_address_and_is_done_once(tmp_path, capsys):
    source = tmp_path / "a.pth"
    source.write_bytes(b"weights")
    fetch_weights(official(source=source.as_uri()))
    assert Path("weights/a.pth").read_bytes() == b"weights"
    assert capsys.readouterr().out == f"downloading a.pth (licence: L) from {source.as_uri()}\n"
    fetch_weights(official(source=source.as_uri()))
    assert capsys.readouterr().out == ""


def test_failed_download_leaves_nothing(tmp_path, know):
    source = tmp_path / "a.pth"
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch_weights(official(source=source.as_uri()))
    source.write_bytes(b"weights")
    know("a.pth", "00000000")
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch_weights(official(source=source.as_uri()))
    assert list(Path("weights").iterdir()) == []
    with pytest.raises(ConfigError, match="have no direct URL"):
        fetch_weights(official(source="https://b/licence"))
