"""Tokens that a frozen ViT remembers from one validation to the next."""

import pytest
import torch
from torch import nn

import models.frozen_vit
from models.frozen_vit import load_frozen_vit, remembered_tokens


@pytest.fixture
def vit(monkeypatch: pytest.MonkeyPatch):
    """A ViT that counts the pictures that it computes."""
    vit = load_frozen_vit("test_vit", "random")
    vit.seen = []
    compute = vit._compute
    monkeypatch.setattr(vit, "_compute", lambda x: vit.seen.append(x) or compute(x))
    return vit


def test_a_picture_is_computed_once_for_all_blocks_and_gives_the_same_bits(vit):
    first, other = torch.rand(2, 3, 40, 33), torch.rand(2, 3, 40, 33)
    expected = [vit(first), vit(other)]
    network = nn.ModuleList([vit, nn.Identity()])
    for _ in range(2):
        with remembered_tokens(network), torch.inference_mode():
            for picture, tokens in zip((first, other), expected, strict=True):
                for layer, again in zip(tokens, vit(picture.clone()), strict=True):
                    assert torch.equal(layer, again)
    assert len(vit.seen) == 2 + 2
    vit(first)  # outside, nothing is remembered: training crops never come again
    assert len(vit.seen) == 5


def test_pictures_that_differ_in_one_value_or_in_shape_are_told_apart(vit):
    picture = torch.rand(1, 3, 32, 48)
    changed = picture.clone()
    changed[0, 2, 31, 47] += 1e-6
    with vit.remembering():
        vit(picture)
        assert not torch.equal(vit(changed)[-1], vit(picture)[-1])
        vit(picture.view(1, 3, 48, 32))
    assert len(vit.seen) == 3


def test_beyond_the_limit_nothing_more_is_kept(vit, monkeypatch):
    one, two = torch.rand(2, 1, 3, 32, 32)
    num_bytes = sum(layer.nbytes for layer in vit(one))
    monkeypatch.setattr(models.frozen_vit, "MEMORY_BYTES", num_bytes)
    vit.seen.clear()
    with vit.remembering():
        for picture in (one, two, one, two):
            vit(picture)
    assert [torch.equal(seen, two) for seen in vit.seen] == [False, True, True]
