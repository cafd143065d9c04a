"""Charts as PNG. The one place that needs the extra `report`."""

from collections.abc import Mapping
from types import ModuleType
from typing import Final

from ipfl_flower.charts.theme import LIGHT, filled

WIDTH: Final = 1600
FAMILY: Final = "Source Sans Pro"


class PngError(RuntimeError):
    """A chart can't be made a PNG; the message says what is missing."""


def rasterise(svg: str, *, width: int = WIDTH, theme: Mapping[str, str] = LIGHT) -> bytes:
    """Turn a chart into a PNG.

    Parameters
    ----------
    svg : str
        What one of the charts returned; `SLIDE` is the size for it.
    width : int
        Pixels; the height follows.
    theme : mapping
        `LIGHT` or `DARK`.

    Returns
    -------
    bytes

    Raises
    ------
    PngError
        The extra `report` is not installed.
    """
    resvg, fonts = _imported()
    # Letters come from a package, not from the machine, which may have none, and would draw none;
    # its own are asked for what that font lacks: other scripts.
    found: bytes = resvg.svg_to_bytes(
        svg_string=svg,
        background=theme["paper"],
        width=width,
        style_sheet=filled(theme),
        font_family=FAMILY,
        sans_serif_family=FAMILY,
        font_files=[
            fonts.font_files_ttf[name] for name in ("SourceSansPro", "SourceSansProSemibold")
        ],
    )
    return bytes(found)


def _imported() -> tuple[ModuleType, ModuleType]:
    try:
        import font_source_sans_pro  # type: ignore[import-untyped]  # noqa: PLC0415
        import resvg_py  # noqa: PLC0415
    except ImportError as error:
        raise PngError(
            f"PNGs need {error.name}: pip install 'ipfl-flower[report]', or leave out --png"
        ) from error
    return resvg_py, font_source_sans_pro
