"""MLP head (figure, right): SegFormer's all-MLP decoder, four scales to class logits."""

from torch import Tensor, nn

from models.layers import resize


class MlpHead(nn.Module):
    """All-MLP decoder ``logits = W_c drop(ReLU(BN(Σ_i up(W_i [x_rgb; x_structure]_i))))``.

    All scales are upsampled to the finest, that of the logits.

    SegFormer projects each scale, upsamples, concatenates and projects again. The two projections
    have nothing between them, and a 1x1 convolution commutes with bilinear upsampling, so they are
    one matrix per scale here, applied before upsampling: the same function, fewer operations.

    Differs from the released code: fed by both streams, not by RGB alone (fault 22).

    Args:
        channels: C1..C4, width of each stream at each scale.
        embed_channels: width of the fused map.
        num_classes: number of classes.
        dropout: probability of dropping a channel of the fused map.
    """

    def __init__(
        self, *, channels: tuple[int, ...], embed_channels: int, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.project = nn.ModuleList(
            nn.Conv2d(2 * width, embed_channels, 1, bias=False) for width in channels
        )
        self.norm = nn.BatchNorm2d(embed_channels)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(embed_channels, num_classes, 1)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """Map ``(B, 2*Ci, Hi, Wi)``, finest first, to logits ``(B, num_classes, H1, W1)``."""
        fused = self.project[0](pyramid[0])
        for project, features in zip(self.project[1:], pyramid[1:], strict=True):
            fused += resize(project(features), fused.shape[-2:])
        return self.classify(self.drop(self.act(self.norm(fused))))
