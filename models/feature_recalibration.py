"""Feature recalibration, FR (figure, per stage): each stream re-weighted by what both show."""

import torch
from torch import Tensor, nn

from models.layers import ChannelNorm


class ChannelGate(nn.Module):
    """One weight a channel, from a descriptor pooled where the stream looks.

    ``a = softmax_p(w · z)`` over all positions p, in fp32; ``d = Σ_p a_p z_p``;
    ``g = sigmoid(W2 GELU(W1 d))`` with ``z = [x_rgb; x_str]``.

    Differs from the released code: a plain softmax, where that code exponentiates first and so
    picks one position (fault 16); a non-linearity between the two convolutions (fault 17).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 8)
        self.attend = nn.Conv2d(2 * channels, 1, 1, bias=False)  # softmax cancels a bias
        self.gate = nn.Sequential(
            nn.Linear(2 * channels, hidden), nn.GELU(), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, z: Tensor) -> Tensor:
        """``(B, 2C, H, W)`` -> ``(B, C, 1, 1)`` in (0, 1)."""
        attention = self.attend(z).flatten(2).float().softmax(-1)  # (B, 1, H*W)
        descriptor = torch.matmul(z.flatten(2), attention.transpose(1, 2).to(z.dtype))
        return self.gate(descriptor.squeeze(-1))[..., None, None]


class SpatialGate(nn.Module):
    """One weight a position: a convex mix of channels, chosen by the image as a whole.

    ``π = softmax_c(W mean_p(z))`` over the 2C channels, in fp32; ``s_p = sigmoid(π · z_p)``.

    Differs from the released code: bounded by a sigmoid (fault 18).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.choose = nn.Linear(2 * channels, 2 * channels)

    def forward(self, z: Tensor) -> Tensor:
        """``(B, 2C, H, W)`` -> ``(B, 1, H, W)`` in (0, 1)."""
        mix = self.choose(z.mean((2, 3))).float().softmax(-1).to(z.dtype)
        return torch.einsum("bc,bchw->bhw", mix, z).unsqueeze(1).sigmoid()


class FeatureRecalibration(nn.Module):
    """One FR, between the stage's input pair x and its FE output pair f.

    With m = own stream, o = other stream::

        x'_m  = g_m ⊙ x_m  + x_o             g: ChannelGate([x_rgb; x_str])
        x''_m = s_m ⊙ x'_m + x'_o            s: SpatialGate([x'_rgb; x'_str])
        out_m = LN(W_m [x''_rgb + f_rgb; x''_str + f_str] + b_m)

    ``gates`` removes parts of it: ``channel`` leaves out the second line (x'' = x'), ``off`` the
    whole block (out_m = LN(f_m)).

    Differs from the released code: the spatial gate acts on the channel-recalibrated features
    (fault 18), and the output is normalised, so values do not grow over the stages (fault 19).

    Args:
        channels: width of both streams.
        gates: ``channel_spatial``, ``channel`` or ``off``.
    """

    def __init__(self, *, channels: int, gates: str = "channel_spatial") -> None:
        super().__init__()
        self.gates = gates
        if gates != "off":
            self.channel_rgb, self.channel_str = ChannelGate(channels), ChannelGate(channels)
            self.out_rgb, self.out_str = (nn.Conv2d(2 * channels, channels, 1) for _ in range(2))
        if gates == "channel_spatial":
            self.spatial_rgb, self.spatial_str = SpatialGate(channels), SpatialGate(channels)
        self.norm_rgb, self.norm_str = ChannelNorm(channels), ChannelNorm(channels)

    def forward(
        self, x_rgb: Tensor, x_str: Tensor, f_rgb: Tensor, f_str: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Four ``(B, C, H, W)`` -> the stage's output pair, two of the same shape."""
        if self.gates == "off":
            return self.norm_rgb(f_rgb), self.norm_str(f_str)
        z = torch.cat([x_rgb, x_str], 1)
        x_rgb, x_str = _weigh(x_rgb, x_str, self.channel_rgb(z), self.channel_str(z))
        if self.gates == "channel_spatial":
            z = torch.cat([x_rgb, x_str], 1)
            x_rgb, x_str = _weigh(x_rgb, x_str, self.spatial_rgb(z), self.spatial_str(z))
        pair = torch.cat([x_rgb + f_rgb, x_str + f_str], 1)
        return self.norm_rgb(self.out_rgb(pair)), self.norm_str(self.out_str(pair))


def _weigh(x_rgb: Tensor, x_str: Tensor, w_rgb: Tensor, w_str: Tensor) -> tuple[Tensor, Tensor]:
    """``w_m ⊙ x_m + x_o`` for both streams, each in one pass."""
    return torch.addcmul(x_str, w_rgb, x_rgb), torch.addcmul(x_rgb, w_str, x_str)
