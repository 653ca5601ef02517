"""Files for deployment: their logits, their metadata, and the errors."""

import importlib.util
import json

import onnxruntime
import pytest
import timm
import torch

from configs.schema import ModelConfig, VitConfig
from models import export
from models.build import build_network
from models.export import export_network
from utils.errors import ConfigError, DataError

NONE = VitConfig(name="none")
METADATA = {"classes": ["Straße", "tree"], "palette": [[0, 0, 0], [0, 255, 0]]}
SIZE = (50, 65)  # of the exports; no multiple of anything
SHAPES = [(3, *SIZE), (4, *SIZE)]


def network(**settings) -> torch.nn.Module:
    torch.manual_seed(0)
    config = ModelConfig(**{"size": "tiny", "rgb_vit": NONE, "structure_vit": NONE, **settings})
    pictures = ((0, 1, 2), (3, 3, 3))
    return build_network(config, num_classes=2, structure_channels=4, pictures=pictures).eval()


def check(path, net: torch.nn.Module) -> None:
    """Compare a file with its network at numbers of images that the program did not try."""
    assert export_network(net, SHAPES, path, METADATA) < 1e-4
    assert list(path.parent.iterdir()) == [path]
    if path.suffix == ".pt2":
        found = {"metadata.json": ""}
        run = torch.export.load(path, extra_files=found).module()
        text = found["metadata.json"]
    else:
        session = onnxruntime.InferenceSession(path)
        text = session.get_modelmeta().custom_metadata_map["metadata.json"]

        def run(image, structure):
            feed = {"image": image.numpy(), "structure": structure.numpy()}
            return torch.from_numpy(session.run(None, feed)[0])

    for num_images in (1, 2, 4):
        inputs = torch.rand(num_images, 3, *SIZE), torch.rand(num_images, 4, *SIZE)
        with torch.no_grad():
            expected = net(*inputs)
            torch.testing.assert_close(run(*inputs), expected, rtol=0, atol=1e-4)
    said = json.loads(text)
    assert {key: said[key] for key in METADATA} == METADATA
    assert said["inputs"]["structure"] == "(N, 4, 50, 65) float32 in [0, 1]"
    assert said["output"]["logits"] == "(N, number of classes, 50, 65) float32"


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_exported_file_gives_the_logits_of_the_network(tmp_path, one_stage, suffix):
    """With one frozen ViT for the pictures of both branches."""
    shared = VitConfig(name="test_vit", weights="random", layers=(1,))
    check(tmp_path / f"a{suffix}", network(rgb_vit=shared, structure_vit=shared))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_exported_file_with_frozen_vits_of_both_kinds(tmp_path, monkeypatch, suffix):
    """All stages; positions that are added (DINOv2) and rotary ones (DINOv3); four layers, one."""
    create = timm.create_model
    small = {"depth": 4, "embed_dim": 64, "num_heads": 2}
    monkeypatch.setattr(timm, "create_model", lambda name, **more: create(name, **more, **small))
    rgb_vit = VitConfig(name="vit_small_patch16_dinov3_qkvb", weights="random", input_scale=1.5)
    name = "vit_small_patch14_reg4_dinov2"
    structure_vit = VitConfig(name=name, weights="random", layers="last")
    check(tmp_path / f"a{suffix}", network(rgb_vit=rgb_vit, structure_vit=structure_vit))


@pytest.mark.parametrize("shift", [2e-4, torch.nan])
def test_a_file_with_other_logits_is_not_left(tmp_path, monkeypatch, shift):
    net = network()

    class Program:
        def module(self):
            return lambda image, structure: net(image, structure) + shift

    monkeypatch.setattr(torch.export, "export", lambda *_, **__: None)
    monkeypatch.setattr(torch.export, "save", lambda program, file, **_: file.write(b"0"))
    monkeypatch.setattr(torch.export, "load", lambda file: Program())
    with pytest.raises(DataError, match=r"a\.pt2 was not written: its logits would differ .*"):
        export_network(net, SHAPES, tmp_path / "a.pt2", {})
    assert not list(tmp_path.iterdir())


def test_an_unsupported_network_is_one_sentence(tmp_path):
    class Picky(torch.nn.Module):
        def forward(self, image, structure):
            return image if image.sum() > 0 else image * 2

    sentence = r"^[^\n]*a\.pt2 was not written: torch [^\n]* cannot export [^\n]*\([^\n]*$"
    with pytest.raises(DataError, match=sentence):
        export_network(Picky(), SHAPES, tmp_path / "a.pt2", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("a.tar", SIZE, r"a\.tar must end with \.pt2 .*, \.onnx .* or \.pth"),
        ("a.pt2", (32, 64), r"needs inputs of 33 px or more, not \(32, 64\)"),
        ("a.onnx", SIZE, r"onnx, onnxscript must be .*: pip install onnx onnxscript$"),
    ],
)
def test_arguments_that_cannot_be_exported_are_refused(tmp_path, monkeypatch, name, size, words):
    find, missing = importlib.util.find_spec, {"onnx", "onnxscript"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else find(name)
    )
    with pytest.raises(ConfigError, match=words):
        export_network(network(), [(3, *size), (4, *size)], tmp_path / name, {})
    assert not list(tmp_path.iterdir())


def test_weights_that_no_onnx_file_holds_are_refused_before_any_work(tmp_path, monkeypatch):
    huge = torch.nn.Linear(1 << 15, 1 << 14, device="meta")  # 2 GiB
    monkeypatch.setattr(export, "_random_inputs", None)
    with pytest.raises(DataError, match=r"take 2\.0 GiB, .* less than 2 GiB; export to .*a\.pt2"):
        export_network(huge, SHAPES, tmp_path / "a.onnx", {})
