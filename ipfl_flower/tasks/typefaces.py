"""Characters drawn from typefaces of Debian's packages, each unlike the last: not handwriting.

A stand-in for FEMNIST where that can't be had. Pillow draws them; it is imported when it does.
"""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.tasks.errors import TaskDataError

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

# In LEAF's order.
CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
FOLDER = Path("/usr/share/fonts")
_EACH = 8  # drawings of a character: with 496 in all as many as of LEAF's top writers
_SIDE = 28
_SCALE = 3  # drawn larger, then scaled down: smooth at any slant


class Typeface(NamedTuple):
    """A file below /usr/share/fonts, and the Debian package that it comes from."""

    package: str
    path: str


# Hands first, then print; two groups that a market may find.
TYPEFACES = tuple(
    Typeface(f"fonts-{package}", path)
    for package, path in (
        ("breip", "truetype/breip/Breip.ttf"),
        ("dancingscript", "opentype/dancingscript/DancingScript-Regular.otf"),
        ("dkg-handwriting", "truetype/fifthhorseman/dkg.ttf"),
        ("ecolier-court", "truetype/ecolier-court/Ecolier-court.ttf"),
        ("femkeklaver", "truetype/femkeklaver/femkeklaver.ttf"),
        ("isabella", "truetype/isabella/Isabella.ttf"),
        ("kaushanscript", "opentype/kaushanscript/KaushanScript-Regular.otf"),
        ("kristi", "truetype/kristi/Kristi.ttf"),
        ("rufscript", "truetype/rufscript/Rufscript010.ttf"),
        ("sjfonts", "truetype/sjfonts/SteveHand.ttf"),
        ("cabin", "opentype/cabin/Cabin-Regular.otf"),
        ("comfortaa", "truetype/comfortaa/Comfortaa-Regular.ttf"),
        ("courier-prime", "opentype/courier-prime/Courier Prime.otf"),
        ("dosis", "opentype/dosis/Dosis-Book.otf"),
        ("essays1743", "truetype/essays1743/Essays1743.ttf"),
        ("inconsolata", "truetype/inconsolata/Inconsolata.otf"),
        ("jura", "opentype/jura/Jura-Medium.otf"),
        ("karla", "truetype/karla/Karla-Regular.otf"),
        ("tuffy", "truetype/tuffy/Tuffy.ttf"),
        ("vollkorn", "truetype/vollkorn/Vollkorn-Regular.ttf"),
    )
)


def draw(
    typeface: Typeface, seed: int, folder: Path = FOLDER
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw every character several times, each time turned, slanted, sized and placed differently.

    Parameters
    ----------
    typeface
        Whose characters.
    seed
        Of the differences.
    folder
        Where typefaces are installed.

    Returns
    -------
    images, uint8 array, shape (496, 28, 28)
        Black on white, 255.
    labels, int64 array, shape (496,)
        Positions in ``CHARACTERS``.

    Raises
    ------
    TaskDataError
        The typeface or Pillow is not installed.
    """
    rng = np.random.default_rng([seed, TYPEFACES.index(typeface)])
    labels = np.tile(np.arange(len(CHARACTERS)), _EACH)
    font = _open(typeface, folder)
    return np.stack([_draw_one(font, CHARACTERS[label], rng) for label in labels]), labels


def _open(typeface: Typeface, folder: Path) -> "FreeTypeFont":
    try:
        from PIL import ImageFont  # noqa: PLC0415  # LEAF's files need no Pillow
    except ImportError as error:
        raise TaskDataError(
            "task femnist: Pillow, which draws characters, isn't installed: "
            "pip install 'ipfl-flower[experiments]', or set data_dir to a folder of LEAF's"
        ) from error
    path = folder / typeface.path
    try:
        # Of a path that isn't there, Pillow would open a file of that name elsewhere.
        return ImageFont.truetype(BytesIO(path.read_bytes()), _SCALE * 20)
    except OSError as error:
        raise TaskDataError(
            f"task femnist: {path} can't be read ({error}): install Debian's package "
            f"{typeface.package}, or set data_dir to a folder of LEAF's"
        ) from error


def _draw_one(font: "FreeTypeFont", character: str, rng: np.random.Generator) -> NDArray[Any]:
    from PIL import Image, ImageDraw  # noqa: PLC0415

    side = _SCALE * _SIDE
    picture = Image.new("L", (side, side), 255)
    ImageDraw.Draw(picture).text((side / 2, side / 2), character, fill=0, font=font, anchor="mm")
    # Around the middle: turn by ±9°, slant, scale by 0.8 … 1.2, move by two pixels of 28.
    angle, slant = rng.normal(0, 0.08), rng.normal(0, 0.12)
    scale = 1 / rng.uniform(0.8, 1.2)
    moved = rng.uniform(-2, 2, 2) * _SCALE
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = scale * turn @ np.array([[1, slant], [0, 1]])
    offset = side / 2 - matrix @ (side / 2 + moved)
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    bent = picture.transform(
        (side, side),
        Image.Transform.AFFINE,
        coefficients,
        resample=Image.Resampling.BILINEAR,
        fillcolor=255,
    )
    return np.asarray(bent.resize((_SIDE, _SIDE), Image.Resampling.BOX))
