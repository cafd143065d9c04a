"""A page that holds everything it needs: one file, no other asset, nothing loaded from elsewhere.

It works without JavaScript; with it, steps are shown one at a time. Only this page's own style and
script run, whatever strangers' text it holds: its policy names them by their hashes.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from ipfl_flower.charts.svg import element, text
from ipfl_flower.charts.theme import CHART_CSS, DARK, LIGHT, variables

_HERE: Final = Path(__file__).parent

LONG: Final = 24
"""Letters of a cell from which on it may be broken into lines."""

Cell: TypeAlias = str | int


def document(title: str, subtitle: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """Write a page.

    Parameters
    ----------
    title : str
    subtitle : str
        HTML.
    sections : sequence of tuple
        Of each its id, its name and its HTML, without the heading.

    Returns
    -------
    str
    """
    style, script = _style(), (_HERE / "document.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    links = "".join(
        element("a", text(name), href=f"#{anchor}") for anchor, name, _ in sections if name
    )
    body = "\n".join(
        element(
            "section",
            element("h2", text(name)) if name else "",
            content,
            id=anchor,
            aria_label=name or "Summary",
        )
        for anchor, name, content in sections
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{text(title)}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<div><h1>{text(title)}</h1>{subtitle}</div>
<button type="button" id="theme" hidden>Dark</button>
<nav aria-label="Sections">{links}</nav>
</header>
<main id="content">
{body}
</main>
<script>{script}</script>
</body>
</html>
"""


def card(*children: str, kind: str = "") -> str:
    """Put HTML into a frame."""
    return element("div", *children, class_=f"card {kind}".strip())


def figure(title: str, picture: str, note: str = "", more: str = "") -> str:
    """Put a chart under its title, with a note below it and whatever belongs to it."""
    below = element("p", text(note), class_="soft") if note else ""
    return card(element("h3", text(title)), picture, below, more)


def tiles(values: Iterable[tuple[str, str, str]]) -> str:
    """Show figures: of each its name, its value, and a note."""
    return element(
        "div",
        *(
            element(
                "div",
                element("p", text(name), class_="soft"),
                element("p", text(value), class_="value"),
                element("p", text(note), class_="soft") if note else "",
                class_="tile",
            )
            for name, value, note in values
        ),
        class_="tiles",
    )


def folded(summary: str, *children: str, opened: bool = False, kind: str | None = None) -> str:
    """Put HTML under a line that opens it."""
    tag = "details open" if opened else "details"
    written = element(tag, element("summary", text(summary)), *children, class_=kind)
    return written.replace("</details open>", "</details>")


def steps(key: str, name: str, parts: Sequence[tuple[str, str]], shown: int) -> str:
    """Show parts one at a time: with a slider, or as lines to open where there is no JavaScript.

    Parameters
    ----------
    key : str
        Letters that no other steps on the page have.
    name : str
        What a part is: "Round".
    parts : sequence of tuple
        Of each its name and its HTML.
    shown : int
        The position of the part that is shown first.
    """
    folds = [
        folded(label, content, opened=k == shown, kind="step")
        for k, (label, content) in enumerate(parts)
    ]
    return element("div", *folds, class_="steps", id=key, data_name=name, data_shown=str(shown))


def table(
    caption: str,
    columns: Sequence[tuple[str, bool]],
    rows: Iterable[Sequence[Cell]],
    *,
    classes: Sequence[Sequence[str]] = (),
    foot: Sequence[Cell] = (),
) -> str:
    """Write a table that scrolls in its own frame where it is too wide.

    Parameters
    ----------
    caption : str
    columns : sequence of tuple
        Of each its name, and whether it holds numbers.
    rows : iterable of sequence
        Cells as they are read; they are escaped here. The first of each names its row.
    classes : sequence of sequence of str
        A class for each cell, where it has one.
    foot : sequence
        A last row that sums up.
    """
    numeric = [is_numeric for _, is_numeric in columns]
    head = "".join(
        element("th", text(name), scope="col", class_="number" if is_numeric else None)
        for name, is_numeric in columns
    )
    written = [
        _row(row, numeric, classes[k] if k < len(classes) else ()) for k, row in enumerate(rows)
    ]
    parts = [
        element("caption", text(caption)),
        element("thead", element("tr", head)),
        element("tbody", *written),
    ]
    if foot:
        parts.append(element("tfoot", _row(foot, numeric, ())))
    # Whoever has no mouse scrolls what can be focused.
    return element(
        "div",
        element("table", *parts),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def _row(row: Sequence[Cell], numeric: Sequence[bool], kinds: Sequence[str]) -> str:
    cells = []
    for k, (value, is_numeric) in enumerate(zip(row, numeric, strict=True)):
        width = "number" if is_numeric else "long" if len(str(value)) > LONG else ""
        kind = " ".join(filter(None, [width, *kinds[k : k + 1]]))
        if k == 0:
            cells.append(element("th", text(value), scope="row", class_=kind or None))
        else:
            cells.append(element("td", text(value), class_=kind or None))
    return element("tr", *cells)


def _style() -> str:
    light, dark = variables(LIGHT), variables(DARK)
    themes = (
        f":root {{ color-scheme: light; {light} }}\n"
        f':root[data-theme="dark"] {{ color-scheme: dark; {dark} }}\n'
        "@media screen and (prefers-color-scheme: dark) "
        f'{{ :root:not([data-theme="light"]) {{ color-scheme: dark; {dark} }} }}\n'
        f"@media print {{ :root:root {{ color-scheme: light; {light} }} }}\n"
    )
    return themes + CHART_CSS + (_HERE / "document.css").read_text(encoding="utf-8")


def _digest(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
