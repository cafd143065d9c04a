"""Elements of HTML and SVG as text. What strangers wrote goes through `text`, always."""

import html
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Attribute: TypeAlias = str | float | None

CHARACTER: Final = 0.6
"""Width of a letter, of the font's size: of a wide font, for a page has its reader's."""

FONT: Final = 13.0
"""Size of the letters in a chart, in its own units; `theme` has it, too."""

HEADING: Final = 62.0
"""Height of a heading that is drawn into a chart."""


@dataclass(frozen=True)
class Size:
    """How large a chart is, in units of which a letter has `FONT`.

    Attributes
    ----------
    width, height : float
    heading : bool
        Whether title and description are drawn, too: on a slide, where nothing else says them.
    """

    width: float = 480.0
    height: float = 300.0
    heading: bool = False

    @property
    def top(self) -> float:
        """Where the chart begins."""
        return HEADING if self.heading else 8.0


SLIDE: Final = Size(960.0, 540.0, heading=True)
"""Of 16 to 9, for `png.rasterise`."""


def text(value: object) -> str:
    """Escape for HTML and SVG; what no page may hold, or would turn its direction, is spelled out.

    >>> text("<b>")
    '&lt;b&gt;'
    """
    signs = (sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(value))
    return html.escape("".join(signs))


def short(value: str, length: int) -> str:
    """Cut a text to at most `length` characters."""
    return value if len(value) <= length else f"{value[: length - 1].rstrip()}…"


def number(value: float) -> str:
    """Write a coordinate: one decimal is finer than any screen.

    >>> number(12.04), number(-0.04)
    ('12', '0')
    """
    rounded = round(value, 1) + 0.0
    return str(int(rounded)) if rounded == int(rounded) else str(rounded)


def element(tag: str, *children: str, **attributes: Attribute) -> str:
    """Write an element.

    Parameters
    ----------
    tag : str
    *children : str
        Written as they are: elements, or what `text` returned.
    **attributes : str, float or None
        ``stroke_width`` is stroke-width, ``class_`` is class; None is left out.

    >>> element("text", text("a < b"), x=1.25, class_="axis")
    '<text x="1.2" class="axis">a &lt; b</text>'
    """
    written = "".join(
        f' {name.strip("_").replace("_", "-")}="{_attribute(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{written}>{''.join(children)}</{tag}>"


def drawing(
    title: str, description: str, size: Size, children: Iterable[str], kind: str = "chart"
) -> str:
    """Write a whole SVG, with its title and description for who can't see it."""
    heading = []
    if size.heading:
        heading = [
            element("text", text(title), x=24, y=34, class_="heading"),
            element("text", text(description), x=24, y=54, class_="soft"),
        ]
    return element(
        "svg",
        # Said by the label; a <title> of the whole would hide those of its parts when pointed at.
        element("desc", text(description)),
        *heading,
        *children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {number(size.width)} {number(size.height)}",
        class_=kind,
        role="img",
        aria_label=f"{title}. {description}",
    )


def title(value: str) -> str:
    """Write what shows when one points at an element."""
    return element("title", text(value))


def _attribute(value: Any) -> str:
    return number(value) if isinstance(value, int | float) else text(value)
