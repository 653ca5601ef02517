"""What only a CUDA device can show."""

import pytest
import torch

from configs.schema import ModelConfig, OptimConfig, VitConfig
from models.build import build_network
from utils.training.optim import build_optimizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def build(size: str, vit: str) -> torch.nn.Module:
    frozen = VitConfig(name=vit, weights="random")
    config = ModelConfig(size=size, rgb_vit=frozen, structure_vit=frozen)
    return build_network(config, num_classes=5, structure_channels=4, pictures=((0, 1, 2),))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_with_a_smaller_vit_trains_within_24_gib(dtype):
    network = build("large", "vit_small_patch14_reg4_dinov2").cuda()
    frozen = {n: p.clone() for n, p in network.named_parameters() if not p.requires_grad}
    optimizer = build_optimizer(network, OptimConfig(lr=1e-4, weight_decay=0.01))
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16, init_scale=1024)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        with torch.autocast("cuda", dtype=dtype):
            logits = network(*(torch.rand(4, c, 512, 512, device="cuda") for c in (3, 4)))
        loss = logits.float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert torch.isfinite(loss)
    assert torch.cuda.max_memory_allocated() < 24 * 2**30
    now = dict(network.named_parameters())
    assert frozen and all(torch.equal(now[n], p) for n, p in frozen.items())


def test_gpu_and_cpu_give_the_same_logits():
    network = build("tiny", "test_vit").eval()
    inputs = [torch.rand(1, c, 65, 96) for c in (3, 4)]
    with torch.no_grad():
        expected = network(*inputs)
        ours = network.cuda()(*(x.cuda() for x in inputs)).cpu()
    torch.testing.assert_close(ours, expected, rtol=1e-2, atol=1e-3)  # TF32 convolutions
