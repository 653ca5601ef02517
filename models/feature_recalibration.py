"""Feature recalibration, FR (figure, per stage): both streams re-weighted by gates of the pair."""

import torch
from torch import Tensor, nn

from models.layers import ChannelNorm


class ChannelGate(nn.Module):
    """Channel gate: one weight per channel, from an attention-pooled descriptor.

    ``a = softmax_p(w · z)`` over all positions p, in fp32; ``d = Σ_p a_p z_p``;
    ``g = sigmoid(W2 GELU(W1 d))`` with ``z = [x_rgb; x_structure]``.

    Differs from the released code: a plain softmax, where that code exponentiates before it
    and so selects one position (fault 16); a non-linearity between the two projections (fault 17).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 8)
        self.attend = nn.Conv2d(2 * channels, 1, 1, bias=False)  # softmax cancels a bias
        self.gate = nn.Sequential(
            nn.Linear(2 * channels, hidden), nn.GELU(), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, z: Tensor) -> Tensor:
        """Map ``(B, 2C, H, W)`` to gates ``(B, C, 1, 1)`` in (0, 1)."""
        attention = self.attend(z).flatten(2).float().softmax(-1)  # (B, 1, H*W)
        descriptor = torch.matmul(z.flatten(2), attention.transpose(1, 2).to(z.dtype))
        return self.gate(descriptor.squeeze(-1))[..., None, None]


class SpatialGate(nn.Module):
    """Spatial gate: one weight per position, from a convex combination of channels per image.

    ``π = softmax_c(W mean_p(z))`` over the 2C channels, in fp32; ``s_p = sigmoid(π · z_p)``.

    Differs from the released code: bounded by a sigmoid (fault 18).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.choose = nn.Linear(2 * channels, 2 * channels)

    def forward(self, z: Tensor) -> Tensor:
        """Map ``(B, 2C, H, W)`` to gates ``(B, 1, H, W)`` in (0, 1)."""
        mix = self.choose(z.mean((2, 3))).float().softmax(-1).to(z.dtype)
        return torch.einsum("bc,bchw->bhw", mix, z).unsqueeze(1).sigmoid()


class FeatureRecalibration(nn.Module):
    """FR block of a stage, between its input pair x and its FE output pair f.

    With m = own stream, o = other stream::

        x'_m  = g_m ⊙ x_m  + x_o             g: ChannelGate([x_rgb; x_structure])
        x''_m = s_m ⊙ x'_m + x'_o            s: SpatialGate([x'_rgb; x'_structure])
        out_m = LN(W_m [x''_rgb + f_rgb; x''_structure + f_structure] + b_m)

    ``gates`` removes parts: ``channel`` omits the second line (x'' = x'), ``off`` the whole block
    (out_m = LN(f_m)).

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
            self.channel_rgb, self.channel_structure = ChannelGate(channels), ChannelGate(channels)
            self.out_rgb, self.out_structure = (
                nn.Conv2d(2 * channels, channels, 1) for _ in range(2)
            )
        if gates == "channel_spatial":
            self.spatial_rgb, self.spatial_structure = SpatialGate(channels), SpatialGate(channels)
        self.norm_rgb, self.norm_structure = ChannelNorm(channels), ChannelNorm(channels)

    def forward(
        self, x_rgb: Tensor, x_structure: Tensor, f_rgb: Tensor, f_structure: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Map four ``(B, C, H, W)`` to the output pair of the stage, of the same shape."""
        if self.gates == "off":
            return self.norm_rgb(f_rgb), self.norm_structure(f_structure)
        z = torch.cat([x_rgb, x_structure], 1)
        x_rgb, x_structure = _weigh(
            x_rgb, x_structure, self.channel_rgb(z), self.channel_structure(z)
        )
        if self.gates == "channel_spatial":
            z = torch.cat([x_rgb, x_structure], 1)
            x_rgb, x_structure = _weigh(
                x_rgb, x_structure, self.spatial_rgb(z), self.spatial_structure(z)
            )
        pair = torch.cat([x_rgb + f_rgb, x_structure + f_structure], 1)
        return self.norm_rgb(self.out_rgb(pair)), self.norm_structure(self.out_structure(pair))


def _weigh(
    x_rgb: Tensor, x_structure: Tensor, w_rgb: Tensor, w_structure: Tensor
) -> tuple[Tensor, Tensor]:
    """Return ``w_m ⊙ x_m + x_o`` for both streams, each in one pass."""
    return torch.addcmul(x_structure, w_rgb, x_rgb), torch.addcmul(x_rgb, w_structure, x_structure)
