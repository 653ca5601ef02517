"""Where official weights lie, of the frozen ViTs and of generators, and where they come from.

Nothing is downloaded unless it is asked for in so many words: ``train.py --download`` fetches what
the network needs, ``generate.py --download`` what the generators need.
"""

from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

from torch.hub import download_url_to_file

from utils.errors import ConfigError, DataError, MissingDataError
from utils.files import sha256_of

FOLDER = Path("weights")
_ANSWER_S = 30.0  # longest wait for a server to say how large a file is

# The authors of DINOv2 publish no hashes. Each of these is in at least two independent public
# projects that pin the file; none of the files was ever loaded here.
_DINOV2_SHA256 = {
    "dinov2_vits14_pretrain.pth": (
        "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"
    ),
    "dinov2_vitb14_pretrain.pth": (
        "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"
    ),
    "dinov2_vitl14_pretrain.pth": (
        "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"
    ),
    "dinov2_vitg14_pretrain.pth": (
        "baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3"
    ),
    "dinov2_vits14_reg4_pretrain.pth": (
        "f433177089a681826f849f194ece3bb48f4d63fb38d32fc837e3dc7a4e5641fb"
    ),
    "dinov2_vitb14_reg4_pretrain.pth": (
        "73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71"
    ),
    "dinov2_vitl14_reg4_pretrain.pth": (
        "36e4deffbaef061a2576705b0c36f93621e2ae20bf6274694821b0b492551b51"
    ),
    "dinov2_vitg14_reg4_pretrain.pth": (
        "746ecb8c6301c645c5c855be91687d274587d6e48fdaec4a729753160b34a283"
    ),
}

# Official DINOv3 files end in the first eight digits of their SHA-256. Their licence has to be
# accepted on a page, so they have no address of their own. Names as facebookresearch/dinov3 gives
# them (hub/backbones.py); of the files themselves none was ever loaded here.
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


@dataclass(frozen=True, kw_only=True)
class OfficialFile:
    """The weights file that a model's authors publish."""

    file: str
    source: str  # where it is got from
    licence: str
    url: str | None  # direct address, if there is one
    sha256: str | None  # its beginning at least, if known
    num_bytes: int | None = None  # its size, if known

    @property
    def path(self) -> Path:
        """Where it is looked for if the recipe names no other file."""
        return FOLDER / self.file


def official_file(name: str, published: dict[str, str | None]) -> OfficialFile:
    """The published weights of a ViT.

    Args:
        name: timm name, with or without a tag.
        published: what timm knows of them: ``url``, ``license``, ``hf_hub_id``.
    """
    licence = published.get("license") or "see its page"
    architecture, _, tag = name.partition(".")
    plain = architecture.removesuffix("_qkvb") + (f".{tag}" if tag == "sat493m" else "")
    if plain in _DINOV3_FILES and tag in ("", "lvd1689m", "sat493m"):
        file = _DINOV3_FILES[plain]
        prefix = Path(file).stem.rpartition("-")[2]
        return OfficialFile(
            file=file, source=_DINOV3_PAGE, licence="DINOv3 License", url=None, sha256=prefix
        )
    if url := published.get("url"):
        file = url.rpartition("/")[2]
        digest = _DINOV2_SHA256.get(file)
        return OfficialFile(file=file, source=url, licence=licence, url=url, sha256=digest)
    page = f"https://huggingface.co/{published.get('hf_hub_id') or f'timm/{name}'}"
    return OfficialFile(
        file=f"{name}.safetensors",
        source=f"{page} (there model.safetensors; model.<branch>.weights may name another path)",
        licence=licence,
        url=None,
        sha256=None,
    )


def find_weights(name: str, weights: str | None, official: OfficialFile) -> tuple[Path, str]:
    """The weights file of a recipe and its SHA-256.

    Args:
        name: of the model, for the error.
        weights: path in the recipe; None: the official file in ``weights/``.
        official: what its authors publish.

    Raises:
        MissingDataError: it is not there; says which file, from where, under which licence, and
            where to put it.
        DataError: an official file whose SHA-256 is known is not what it should be.
    """
    path = official.path if weights is None else Path(weights).expanduser()
    if not path.is_file():
        fetch = ", or run train.py (frozen ViTs) or generate.py (generators) with --download"
        raise MissingDataError(
            f"the weights of {name} are not at {path}; get {official.file} from {official.source} "
            f"(licence: {official.licence}) and put it there{fetch if official.url else ''}"
        )
    found = sha256_of(path)
    known = official.sha256 if path.name == official.file else None
    if known and not found.startswith(known):
        raise DataError(
            f"{path} is damaged: its SHA-256 should begin with {known} and is {found}; get it "
            f"again from {official.source}"
        )
    return path, found


def fetch_weights(name: str, official: OfficialFile) -> None:
    """Download the official weights into ``weights/`` unless they are there; whole or not at all.

    Raises:
        ConfigError: they have no direct address (a licence has to be accepted first).
        DataError: the download failed.
    """
    path = official.path
    if path.is_file():
        return
    if official.url is None:
        raise ConfigError(
            f"the weights of {name} have no direct address: get {official.file} from "
            f"{official.source} (licence: {official.licence}) and put it at {path}"
        )
    size = _describe_size(official.num_bytes or _ask_size(official.url))
    print(f"downloading {official.file} ({size}, licence: {official.licence}) from {official.url}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        download_url_to_file(official.url, str(path), hash_prefix=official.sha256)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{official.url} could not be downloaded: {error}") from error


def _ask_size(url: str) -> int | None:
    """What the server says of the size, if anything; nothing of the file is fetched."""
    try:
        with urlopen(Request(url, method="HEAD"), timeout=_ANSWER_S) as answer:
            length = answer.headers.get("Content-Length")
    except OSError:
        return None  # the download will tell what is wrong, if anything
    return int(length) if length else None


def _describe_size(num_bytes: int | None) -> str:
    if num_bytes is None:
        return "size unknown"
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
