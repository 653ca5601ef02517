"""Registry of official weight files: names, URLs, hashes, licences; finding, reading, fetching.

Nothing is downloaded without a request: ``train.py --download`` fetches the frozen ViTs of a
recipe, ``generate.py --download`` the networks of its generators.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.hub import download_url_to_file

from utils.errors import ConfigError, DataError, MissingDataError
from utils.files import sha256_of

FOLDER = Path("weights")
RANDOM = "random"  # in place of a file: fixed random weights, for tests and timing

# As printed by sha256sum. The authors of DINOv2 and Depth Anything publish no hashes; each of these
# is pinned by at least two independent public projects. None of their official files has been
# loaded by this project.
_SHA256_SUMS = """
b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9  dinov2_vits14_pretrain.pth
0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73  dinov2_vitb14_pretrain.pth
d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428  dinov2_vitl14_pretrain.pth
baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3  dinov2_vitg14_pretrain.pth
f433177089a681826f849f194ece3bb48f4d63fb38d32fc837e3dc7a4e5641fb  dinov2_vits14_reg4_pretrain.pth
73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71  dinov2_vitb14_reg4_pretrain.pth
36e4deffbaef061a2576705b0c36f93621e2ae20bf6274694821b0b492551b51  dinov2_vitl14_reg4_pretrain.pth
746ecb8c6301c645c5c855be91687d274587d6e48fdaec4a729753160b34a283  dinov2_vitg14_reg4_pretrain.pth
ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912  sam_vit_b_01ec64.pth
3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622  sam_vit_l_0b3195.pth
a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e  sam_vit_h_4b8939.pth
715fade13be8f229f8a70cc02066f656f2423a59effd0579197bbf57860e1378  depth_anything_v2_vits.pth
0d2b7002e62d39d655571c371333340bd88f67ab95050c03591555aa05645328  depth_anything_v2_vitb.pth
a7ea19fa0ed99244e67b624c72b8580b7e9553043245905be58796a608eb9345  depth_anything_v2_vitl.pth
6c6a383e33e51c5fdfbf31e7ebcda943973a9e6a1cbef1564afe58d7f2e8fe63  depth_anything_vitl14.pth
"""
_WITHOUT_HASH = ("depth_anything_vits14.pth", "depth_anything_vitb14.pth")  # one such project only

# By timm name. The files of DINOv3 are named as in facebookresearch/dinov3 (hub/backbones.py), and
# end in the first eight digits of their SHA-256. Their licence has to be accepted on a page.
_DINOV3_PAGE = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"
_DINOV3_FILES = {
    "vit_small_patch16_dinov3": "dinov3_vits16_pretrain_lvd1689m-08c60483.pth",
    "vit_small_plus_patch16_dinov3": "dinov3_vits16plus_pretrain_lvd1689m-4057cbaa.pth",
    "vit_base_patch16_dinov3": "dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth",
    "vit_large_patch16_dinov3": "dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth",
    "vit_large_patch16_dinov3.sat493m": "dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth",
    "vit_huge_plus_patch16_dinov3": "dinov3_vith16plus_pretrain_lvd1689m-7c1da9a5.pth",
    "vit_7b_patch16_dinov3": "dinov3_vit7b16_pretrain_lvd1689m-a955f4ea.pth",
    "vit_7b_patch16_dinov3.sat493m": "dinov3_vit7b16_pretrain_sat493m-a6675841.pth",
}

# SHA-256 of every registered file: all of it, its first digits, or None where it is not known.
_KNOWN_SHA256: dict[str, str | None] = {
    **{file: sha256 for sha256, file in map(str.split, _SHA256_SUMS.strip().splitlines())},
    **{file: Path(file).stem.rpartition("-")[2] for file in _DINOV3_FILES.values()},
    **dict.fromkeys(_WITHOUT_HASH),
}


@dataclass(frozen=True, kw_only=True)
class OfficialFile:
    """A weights file published by the authors of a model."""

    model: str  # for messages, e.g. "SAM vit_b"
    file: str
    source: str  # URL of the file, or the page that leads to it
    licence: str

    @property
    def path(self) -> Path:
        """Return the path used if a recipe names no other file."""
        return FOLDER / self.file

    @property
    def is_direct(self) -> bool:
        """Return False if ``source`` is a page, e.g. to accept a licence on."""
        return self.source.endswith(f"/{self.file}")

    @property
    def sha256(self) -> str | None:
        """Return the SHA-256 or its first digits; None if it is not known."""
        return _KNOWN_SHA256.get(self.file)


def official_vit(name: str, published: Any) -> OfficialFile:
    """Return the published weights of a ViT.

    Args:
        name: timm name, with or without a tag.
        published: timm's pretrained configuration, or None.
    """
    architecture, _, tag = name.partition(".")
    plain = architecture.removesuffix("_qkvb") + (f".{tag}" if tag == "sat493m" else "")
    if plain in _DINOV3_FILES and tag in ("", "lvd1689m", "sat493m"):
        return OfficialFile(
            model=name,
            file=_DINOV3_FILES[plain],
            source=_DINOV3_PAGE,
            licence="DINOv3 License",
        )
    licence = getattr(published, "license", None) or "see its page"
    if url := getattr(published, "url", None):
        return OfficialFile(model=name, file=url.rpartition("/")[2], source=url, licence=licence)
    page = f"https://huggingface.co/{getattr(published, 'hf_hub_id', None) or f'timm/{name}'}"
    return OfficialFile(
        model=name,
        file=f"{name}.safetensors",
        source=f"{page} (there model.safetensors; model.<branch>.weights may name another path)",
        licence=licence,
    )


def official_sam(model_type: str) -> OfficialFile:
    """Return the published weights of SAM ``vit_b``, ``vit_l`` or ``vit_h``."""
    (file,) = [file for file in _KNOWN_SHA256 if file.startswith(f"sam_{model_type}_")]
    return OfficialFile(
        model=f"SAM {model_type}",
        file=file,
        source=f"https://dl.fbaipublicfiles.com/segment_anything/{file}",
        licence="Apache-2.0",
    )


def official_depth_anything(model_type: str) -> OfficialFile:
    """Return the published weights of Depth Anything ``v2_small``, ``v1_large`` and so on.

    Licences: for version 2 those of its README; for version 1 one licence for code and weights of
    all sizes, as stated by its authors in issue 15 of LiheYoung/Depth-Anything.
    """
    version, size = model_type.split("_")
    if version == "v1":
        folder = "spaces/LiheYoung/Depth-Anything/resolve/main/checkpoints"
        file = f"depth_anything_vit{size[0]}14.pth"
    else:
        folder = f"depth-anything/Depth-Anything-V2-{size.capitalize()}/resolve/main"
        file = f"depth_anything_v2_vit{size[0]}.pth"
    return OfficialFile(
        model=f"Depth Anything {model_type}",
        file=file,
        source=f"https://huggingface.co/{folder}/{file}",
        licence="Apache-2.0" if version == "v1" or size == "small" else "CC-BY-NC-4.0",
    )


def find_weights(weights: str | None, official: OfficialFile) -> tuple[Path, str]:
    """Return the path of a recipe's weights file and its SHA-256.

    Args:
        weights: path in the recipe; None: the official file in ``weights/``.
        official: the published file of the model.

    Raises:
        MissingDataError: the file is missing; names it, its source, its licence and its place.
        DataError: an official file is damaged, or the file is that of another model.
    """
    path = official.path if weights is None else Path(weights).expanduser()
    if not path.is_file():
        fetch = ", or run train.py (frozen ViTs) or generate.py (generators) with --download"
        raise MissingDataError(
            f"the weights of {official.model} are not at {path}; get {official.file} from "
            f"{official.source} (licence: {official.licence}) and put it there"
            f"{fetch if official.is_direct else ''}"
        )
    found = sha256_of(path)
    other = _official_name(path, found)  # two versions of a network can have the same layout
    if other not in (None, official.file):
        raise DataError(
            f"{path} is the official file {other}, and {official.model} needs {official.file}; "
            "change the recipe's model or its weights file"
        )
    known = official.sha256 if path.name == official.file else None
    if known and not found.startswith(known):
        raise DataError(
            f"{path} is damaged: its SHA-256 should begin with {known} and is {found}; get it "
            f"again from {official.source}"
        )
    return path, found


def _official_name(path: Path, found: str) -> str | None:
    """Return which official file a file is, by its SHA-256, or else by its name; None: no one."""
    for file, sha256 in _KNOWN_SHA256.items():
        if sha256 is not None and found.startswith(sha256):
            return file
    return path.name if path.name in _KNOWN_SHA256 else None


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a PyTorch state dict on the CPU, memory-mapped where the file's format allows it.

    Raises:
        DataError: the file is damaged, or holds something else.
    """
    try:
        is_mappable = zipfile.is_zipfile(path)  # PyTorch's older format is not
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mappable)
    except Exception as error:  # torch raises many types for a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path} cannot be read as PyTorch weights ({reason}); it is damaged or of another "
            "kind, download or save it again"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise DataError(
            f"{path} holds something other than named tensors; save the network's state_dict()"
        )
    return dict(weights)


def check_layout(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], *, refusal: str, remedy: str
) -> None:
    """Refuse weights whose names or shapes are not those of a network.

    Raises:
        DataError: ``refusal`` ("FILE does not hold weights of MODEL"), numbers and first names of
            what is missing, unexpected, or of another shape, and ``remedy``.
    """
    faults = {
        "missing": [key for key in wanted if key not in found],
        "unexpected": [key for key in found if key not in wanted],
        "of another shape": [
            f"{key} {tuple(found[key].shape)} for {tuple(wanted[key].shape)}"
            for key in wanted
            if key in found and found[key].shape != wanted[key].shape
        ],
    }
    counts = [f"{len(keys)} {fault} (first: {keys[0]})" for fault, keys in faults.items() if keys]
    if counts:
        raise DataError(f"{refusal}: {', '.join(counts)}; {remedy}")


def load_official_weights(
    network: nn.Module, weights: str | None, official: OfficialFile, unused: tuple[str, ...] = ()
) -> str:
    """Load a local file of the official layout into a network; return the file's SHA-256.

    The tensors of the file become the parameters, so the network can be on the meta device.

    Args:
        network: its ``state_dict`` has the official names.
        weights: see ``find_weights``.
        official: the published file of the model.
        unused: names in the file that the network does not need.

    Raises:
        MissingDataError, DataError: as ``find_weights``; or the layout is not that of the network.
    """
    path, digest = find_weights(weights, official)
    state = {key: value for key, value in read_state_dict(path).items() if key not in unused}
    check_layout(
        network.state_dict(),
        state,
        refusal=f"{path} does not hold weights of {official.model}",
        remedy=f"get {official.file} from {official.source}",
    )
    network.load_state_dict(state, assign=True)
    return digest


def fetch_weights(official: OfficialFile) -> None:
    """Download an official file into ``weights/`` unless it is there; whole or not at all.

    Raises:
        ConfigError: it has no direct URL (a licence has to be accepted first).
        DataError: the download failed.
    """
    path = official.path
    if path.is_file():
        return
    if not official.is_direct:
        raise ConfigError(
            f"the weights of {official.model} have no direct URL: get {official.file} from "
            f"{official.source} (licence: {official.licence}) and put it at {path}"
        )
    print(f"downloading {official.file} (licence: {official.licence}) from {official.source}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        download_url_to_file(official.source, str(path), hash_prefix=official.sha256)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{official.source} could not be downloaded: {error}") from error
