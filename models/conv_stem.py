"""CNN stem (figure, left): local detail at a quarter of the resolution."""

from torch import Tensor, nn


class ConvStem(nn.Module):
    """conv3x3 /2 - BN - GELU - conv3x3 /2 - BN, the stem of the figure and of DFormer.

    Args:
        in_channels: 3 for RGB; for structure, the channels of all encodings together.
        channels: C1, width of the first stage.
    """

    def __init__(self, *, in_channels: int, channels: int) -> None:
        super().__init__()
        middle = channels // 2
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, middle, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(middle),
            nn.GELU(),
            nn.Conv2d(middle, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` -> ``(B, C1, ⌈H/4⌉, ⌈W/4⌉)``."""
        return self.layers(x)
