"""Numerical precision: autocast for the forward pass, loss scaling for the backward pass."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Numerical precision of a network.

    TF32, which rounds the factors of fp32 products to 10 bits on CUDA devices, is on for ``tf32``
    and off otherwise, also for convolutions (PyTorch's default is on), so that fp32 means fp32.

    Args:
        name: fp32, tf32, bf16, fp16, or auto (bf16 on CUDA, fp32 on the CPU).
        device: device of the computation.

    Attributes:
        dtype: of the trainable part.
        frozen_dtype: of frozen ViTs: like ``dtype``; for auto also bf16 on a CPU with matrix units
            for it (AMX), where that takes half the time.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        is_auto = name == "auto"
        if is_auto:
            name = "bf16" if device.type == "cuda" else "fp32"
        self.name = name
        self.dtype = _HALF.get(name, torch.float32)
        self.frozen_dtype = self.dtype
        if is_auto and device.type == "cpu" and torch.cpu._is_amx_tile_supported():
            self.frozen_dtype = torch.bfloat16
        self._device = device
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
            torch.backends.cudnn.allow_tf32 = name == "tf32"
        # Gradients of fp16 underflow without scaling; the others have the exponent range of fp32.
        self._scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context of the forward pass; the loss is computed outside of it, in fp32."""
        enabled = self.dtype != torch.float32
        return torch.autocast(self._device.type, dtype=self.dtype, enabled=enabled)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a loss, scaled if the precision needs it."""
        self._scaler.scale(loss).backward()

    def step(self, network: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float) -> None:
        """Clip the gradient to ``max_norm`` (0: off), step the optimiser, clear the gradients."""
        if max_norm > 0:
            self._scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(network.parameters(), max_norm)
        self._scaler.step(optimizer)
        self._scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the loss scaling."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of ``state_dict``."""
        self._scaler.load_state_dict(state)
