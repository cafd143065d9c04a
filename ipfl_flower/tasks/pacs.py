"""PACS: 9,991 images of seven classes as photos, art, cartoons and sketches, from files or the hub.

Li et al., "Deeper, Broader and Artier Domain Generalization", ICCV 2017. The domains are what
groups of institutions differ by.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from ipfl_flower.tasks import splits
from ipfl_flower.tasks.cifar10 import standardise
from ipfl_flower.tasks.errors import TaskDataError
from ipfl_flower.tasks.files import (
    AbsolutePath,
    check_labelled_images,
    data_folder,
    read_npz,
)
from ipfl_flower.tasks.hub import HubImageOptions, HubImages, read_images, read_rows
from ipfl_flower.tasks.images import ImageTask
from ipfl_flower.tasks.networks import resnet20, strided_cnn

DOMAINS = ("photo", "art_painting", "cartoon", "sketch")
CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
HOW_TO_GET = (
    "set data_dir to a folder with the official folders (photo, art_painting, cartoon, sketch; "
    "in each a folder for each class) or pacs32.npz, or dataset to flwrlabs/pacs"
)
HUB_NAME = "flwrlabs/pacs"
_ARCHIVE = "pacs32.npz"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as is usual for PACS


class PacsOptions(HubImageOptions):
    """Which slice, which model, and where the files are, if not on the hub.

    Attributes
    ----------
    split
        "domains": institution i holds images of domain i % 4, which its institutions share
        equally. The others are as for every image task.
    model
        "resnet20": the paper's, with group normalisation; "cnn": a small one.
    side
        Pixels that the images are scaled to: a multiple of 4.
    data_dir
        Absolute path of the folder; default: the environment's IPFL_DATA_DIR.
    """

    split: Literal["domains", "clusters", "dirichlet", "skew"]  # type: ignore[assignment]
    model: Literal["resnet20", "cnn"] = "resnet20"
    side: int = Field(default=64, ge=16, le=224, multiple_of=4)
    data_dir: AbsolutePath | None = None


class Images(NamedTuple):
    """All images (n, side, side, 3), their classes (n,) and their domains (n,)."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    domains: NDArray[np.int64]


class Pacs(ImageTask):
    """PACS with a ResNet-20 or a small CNN."""

    name: ClassVar[str] = "pacs"
    options_type = PacsOptions
    class_count = len(CLASSES)

    def __init__(self, options: PacsOptions) -> None:
        super().__init__(options)
        self.by_domain = options.split == "domains"
        self.model = options.model
        self.side = options.side
        self.data_dir = options.data_dir
        shape = (self.side, self.side, 3)
        self.hub = options.on_hub(shape, len(CLASSES), self.name, scaled=True)

    def build_model(self, seed: int) -> nn.Module:
        """Build the ResNet or the CNN; see :meth:`Task.build_model`."""
        if self.model == "resnet20":
            return resnet20(len(CLASSES), seed=seed)
        return strided_cnn(3, self.side, len(CLASSES), seed=seed)

    def source(self) -> str:
        """Say which images they are; see :meth:`Task.source`."""
        if self.hub is not None:
            return self.hub.source()
        folder = self._folder()
        return "PACS" if _official(folder) else f"PACS at 32 pixels ({_ARCHIVE})"

    def stand_in(self) -> bool:
        """Tell whether the images are smaller than PACS's, or others; see :meth:`Task.stand_in`."""
        if self.hub is not None:
            return not self.hub.is_named(HUB_NAME)
        return not _official(self._folder())

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read all images, (n, side, side, 3) or (n, 32, 32, 3), and labels (n,)."""
        images = self._images()
        return images.pixels, images.labels

    def inputs(self, images: NDArray[np.uint8]) -> Tensor:
        """Standardise each colour and scale to (n, 3, side, side)."""
        pixels = standardise(images, _MEAN, _STD)
        if pixels.shape[-1] == self.side:
            return pixels
        return nn.functional.interpolate(pixels, size=self.side, mode="bilinear")

    def split(
        self, used: splits.Indices, labels: NDArray[np.int64], rng: np.random.Generator
    ) -> list[splits.Indices]:
        """Split by domains, or as :meth:`ImageTask.split` does."""
        if not self.by_domain:
            return super().split(used, labels, rng)
        domains = self._images().domains[used]
        institutions = self.options.institutions
        shares: dict[int, splits.Indices] = {}
        for domain in range(len(DOMAINS)):
            holders = range(domain, institutions, len(DOMAINS))
            members = np.flatnonzero(domains == domain)
            pieces = splits.even(len(members), len(holders), rng) if holders else []
            shares |= {i: members[piece] for i, piece in zip(holders, pieces, strict=True)}
        return [shares[institution] for institution in range(institutions)]

    def _images(self) -> Images:
        if self.hub is not None:
            return read_hub(self.hub)
        return read_pacs(self._folder(), self.side)

    def _folder(self) -> Path:
        return data_folder(self.data_dir, self.name, HOW_TO_GET)


@lru_cache(maxsize=1)  # several institutions in one process read the same 10,000 files
def read_pacs(folder: Path, side: int) -> Images:
    """Read all images, those of the official layout scaled to ``side``.

    Raises
    ------
    TaskDataError
        Files are missing or damaged, or Pillow, which reads pictures, is not installed.
    """
    if _official(folder):
        return _read_folders(folder, side)
    if not (folder / _ARCHIVE).exists():
        raise TaskDataError(f"task pacs: {folder} holds none of its files: {HOW_TO_GET}")
    path = folder / _ARCHIVE
    arrays = read_npz(path, {"x": 4, "y": 1, "d": 1}, "pacs", HOW_TO_GET)
    pixels, domains = arrays["x"], arrays["d"]
    if pixels.shape[3] != 3 or pixels.shape[1] != pixels.shape[2]:
        raise TaskDataError(f"task pacs: {path} has no square colour images: {HOW_TO_GET}")
    _, checked = check_labelled_images(pixels, domains, len(DOMAINS), "pacs", path)
    return Images(*check_labelled_images(pixels, arrays["y"], len(CLASSES), "pacs", path), checked)


@lru_cache(maxsize=1)
def read_hub(wanted: HubImages) -> Images:
    """Read all images of the hub, with their domains by name in a column of that name.

    Raises
    ------
    TaskDataError
        They can't be had, or are others.
    """
    pixels, labels = read_images(wanted)
    names = read_rows(wanted.dataset, {"domain": "dataset"}, "pacs")["domain"][:]
    strays = sorted({str(name) for name in names}.difference(DOMAINS))
    if strays:
        raise TaskDataError(
            f"task pacs: {wanted.dataset} has a domain {strays[0]!r}, not {', '.join(DOMAINS)}: "
            "rename it"
        )
    return Images(pixels, labels, np.array([DOMAINS.index(name) for name in names]))


def _official(folder: Path) -> bool:
    return any((folder / domain).is_dir() for domain in DOMAINS)


def _read_folders(folder: Path, side: int) -> Images:
    rows = [
        (_read_picture(path, side), label, domain)
        for domain, domain_name in enumerate(DOMAINS)
        for label, class_name in enumerate(CLASSES)
        for path in _pictures(folder / domain_name / class_name)
    ]
    pixels, labels, domains = zip(*rows, strict=True)
    return Images(np.stack(pixels), np.array(labels), np.array(domains))


def _pictures(folder: Path) -> Iterator[Path]:
    try:
        names = sorted(folder.iterdir())
    except OSError as error:
        raise TaskDataError(
            f"task pacs: {folder} can't be read ({error.strerror}): {HOW_TO_GET}"
        ) from error
    pictures = [path for path in names if path.suffix.lower() in {".jpg", ".jpeg", ".png"}]
    if not pictures:
        raise TaskDataError(f"task pacs: {folder} holds no pictures: {HOW_TO_GET}")
    yield from pictures


def _read_picture(path: Path, side: int) -> NDArray[Any]:
    try:
        from PIL import Image  # noqa: PLC0415  # the archive needs no Pillow
    except ImportError as error:
        raise TaskDataError(
            "task pacs: Pillow, which reads pictures, isn't installed: "
            "pip install 'ipfl-flower[experiments]'"
        ) from error
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB").resize((side, side)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise TaskDataError(
            f"task pacs: {path} can't be read ({error}): get it anew, or remove it"
        ) from error
