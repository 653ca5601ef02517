"""Files for deployment: what they compute, what they say of themselves, and what stops them."""

import importlib.util
import json
from pathlib import Path

import onnxruntime
import pytest
import timm
import torch

from configs.schema import ModelConfig, VitConfig
from models import build, export
from models.build import Size, build_network
from models.export import export_network
from utils.errors import ConfigError, DataError

NONE = VitConfig(name="none")
METADATA = {"classes": ["Straße", "tree"], "palette": [[0, 0, 0], [0, 255, 0]]}
SIZES = (
    (1, 64, 96),
    (2, 33, 50),
    (1, 201, 119),
    (1, 224, 160),
)  # 160: the training's grid of a ViT


def network(**settings) -> torch.nn.Module:
    torch.manual_seed(0)
    config = ModelConfig(**{"size": "tiny", "rgb_vit": NONE, "structure_vit": NONE, **settings})
    pictures = ((0, 1, 2), (3, 3, 3))
    return build_network(config, num_classes=2, structure_channels=4, pictures=pictures).eval()


def inputs(number: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.rand(number, 3, height, width, generator=generator),
        torch.rand(number, 4, height, width, generator=generator),
    )


def run_onnx(session: onnxruntime.InferenceSession, *size: int) -> torch.Tensor:
    image, structure = inputs(*size)
    feed = {"image": image.numpy(), "structure": structure.numpy()}
    return torch.from_numpy(session.run(None, feed)[0])


@pytest.fixture
def recorded_once(monkeypatch):
    """Both formats from one recording, which is half of the time."""
    record, kept = export._record, []

    def remember(*args):
        kept.extend([] if kept else [record(*args)])
        return kept[0]

    monkeypatch.setattr(export, "_record", remember)


def check_both(net: torch.nn.Module, folder: Path) -> None:
    """Both files, at sizes at which the program itself did not look."""
    assert export_network(net, 4, folder / "a.pt2", METADATA) < 1e-5
    assert export_network(net, 4, folder / "a.onnx", METADATA) < 1e-4
    assert sorted(path.name for path in folder.iterdir()) == ["a.onnx", "a.pt2"]
    found = {"metadata.json": ""}
    program = torch.export.load(folder / "a.pt2", extra_files=found).module()
    session = onnxruntime.InferenceSession(folder / "a.onnx")
    for size in SIZES:
        with torch.no_grad():
            expected = net(*inputs(*size))
            torch.testing.assert_close(program(*inputs(*size)), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(run_onnx(session, *size), expected, rtol=0, atol=1e-4)
    texts = [found["metadata.json"], session.get_modelmeta().custom_metadata_map["metadata.json"]]
    for text in texts:
        said = json.loads(text)
        assert {key: said[key] for key in METADATA} == METADATA
        assert said["inputs"]["structure"] == "(N, 4, H, W) float32 in [0, 1]"
        assert said["smallest_px"] == 33


def test_the_network_without_vits(tmp_path, recorded_once):
    check_both(network(), tmp_path)


def test_frozen_vits_of_both_kinds_and_two_modalities(tmp_path, recorded_once, monkeypatch):
    """Positions that are added (DINOv2) and turned (DINOv3); small, for the time."""
    create = timm.create_model
    small = {"depth": 1, "embed_dim": 64, "num_heads": 2}
    monkeypatch.setattr(timm, "create_model", lambda name, **more: create(name, **more, **small))
    size = {"channels": (16,), "depths": (1,), "num_heads": (1,), "mlp_ratios": (2,)}
    names = {"rgb_vit": "none", "structure_vit": "none"}
    monkeypatch.setitem(build.SIZES, "tiny", Size(**size, embed_channels=16, **names))
    rgb_vit = VitConfig(name="vit_small_patch16_dinov3_qkvb", weights="random")
    structure_vit = VitConfig(name="vit_small_patch14_reg4_dinov2", weights="random")
    check_both(network(rgb_vit=rgb_vit, structure_vit=structure_vit), tmp_path)


def test_a_file_that_computes_something_else_is_not_left(tmp_path, monkeypatch):
    net = network()
    monkeypatch.setattr(export, "_record", lambda *_: None)
    monkeypatch.setattr(torch.export, "save", lambda program, file, **_: file.write(b"0"))

    class Wrong:
        def module(self):
            return lambda image, structure: net(image, structure) + shift

    monkeypatch.setattr(torch.export, "load", lambda file: Wrong())
    for shift in (2e-4, torch.nan):  # noqa: B007 - the closure above reads it
        with pytest.raises(
            DataError, match=r"a\.pt2 was not written: its logits would differ .* by"
        ):
            export_network(net, 4, tmp_path / "a.pt2", {})
        assert not list(tmp_path.iterdir())
    shift = 0.0
    assert export_network(net, 4, tmp_path / "a.pt2", {}) == 0


def test_what_cannot_be_exported_is_said_in_one_sentence(tmp_path):
    class Picky(torch.nn.Module):
        def forward(self, image, structure):
            return image if image.shape[2] % 2 else image * 2

    with pytest.raises(
        DataError, match=r"a\.pt2 was not written: torch .* cannot export .*\("
    ) as e:
        export_network(Picky(), 4, tmp_path / "a.pt2", {})
    assert "\n" not in str(e.value)
    assert not list(tmp_path.iterdir())


def test_another_ending_is_an_error_that_names_both(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.pth must end with \.pt2 .* or \.onnx"):
        export_network(network(), 4, tmp_path / "a.pth", {})


def test_a_missing_package_is_named_with_its_command(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    missing = {"onnx", "onnxscript"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else find(name)
    )
    with pytest.raises(
        ConfigError, match=r"onnx, onnxscript must be .*: pip install onnx onnxscript$"
    ):
        export_network(network(), 4, tmp_path / "a.onnx", {})
    assert not list(tmp_path.iterdir())


def test_weights_that_no_onnx_file_holds_are_refused_before_any_work(tmp_path):
    huge = torch.nn.Linear(1 << 15, 1 << 14, device="meta")  # 2 GiB
    with pytest.raises(DataError, match=r"take 2\.0 GiB, .* less than 2 GiB; export to .*a\.pt2"):
        export_network(huge, 4, tmp_path / "a.onnx", {})
