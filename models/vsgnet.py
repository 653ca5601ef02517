"""VSGNet (Pan et al., IEEE JSTARS 18, 2025, doi 10.1109/JSTARS.2025.3547880)."""

from torch import Tensor, nn

from models.encoder import DualBranchEncoder
from models.layers import resize
from models.mlp_head import MlpHead


class VSGNet(nn.Module):
    """Segmentation network: dual-branch encoder and MLP head, as in the figure.

    Args:
        encoder: both branches and the four fusion stages.
        head: maps the four scales to class logits.
    """

    def __init__(self, *, encoder: DualBranchEncoder, head: MlpHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, image: Tensor, structure: Tensor, *cells: Tensor) -> Tensor:
        """Segment a batch; height and width are free.

        Args:
            image: ``(B, 3, H, W)`` RGB in [0, 1].
            structure: ``(B, S, H, W)`` encoded structure maps in [0, 1].
            cells: ``(B, K, gh, gw)`` in [0, 1], for each structure map of cells.

        Returns:
            Logits ``(B, num_classes, H, W)``.
        """
        return resize(self.head(self.encoder(image, structure, cells)), image.shape[-2:])
