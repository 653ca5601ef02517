"""Fixtures of the networks."""

import pytest

from models import build


@pytest.fixture
def one_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tiny a network of one stage, for the time."""
    size = {"channels": (16,), "depths": (1,), "num_heads": (1,), "mlp_ratios": (2,)}
    names = {"rgb_vit": "none", "structure_vit": "none"}
    monkeypatch.setitem(build.SIZES, "tiny", build.Size(**size, embed_channels=16, **names))
