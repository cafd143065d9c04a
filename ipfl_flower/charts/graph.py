"""A directed graph on a ring: who is tied to whom, and how strongly."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ipfl_flower.charts.svg import CHARACTER, FONT, Size, drawing, element, number, short, text
from ipfl_flower.charts.svg import title as pointed_at

RING_MAX: Final = 16
"""Nodes up to which each shows its share as a ring with the value inside."""
NAMED_MAX: Final = 60
"""Nodes up to which they are named."""
TITLED_MAX: Final = 150
"""Edges up to which each says what it is where one points at it."""
NAME_LENGTH: Final = 14
BENDS: Final = (0.1, 0.26)
"""How far arrows bend inward, of their length, clockwise and back: so a pair's two can be told
apart, and neither meets the nodes that stand between its ends."""


@dataclass(frozen=True)
class Node:
    """A node.

    Attributes
    ----------
    name : str
    place : float
        Where it is on the ring, clockwise from the top, in [0, 1).
    share : float or None
        In [0, 1]: how far its ring is closed; None: unknown.
    inside, note : str
        What is written in its ring, and below its name, where there is room.
    about : str
        What it says where one points at it.
    kind : {"", "absent", "held"}
        Absent ones are dashed; held ones stand out, for what `about` says.
    """

    name: str
    place: float
    share: float | None = None
    inside: str = ""
    note: str = ""
    about: str = ""
    kind: Literal["", "absent", "held"] = ""


@dataclass(frozen=True)
class Edge:
    """An arrow between two nodes, by their positions; the heavier the wider."""

    source: int
    target: int
    weight: float
    about: str = ""


@dataclass(frozen=True)
class _Spot:
    x: float
    y: float
    angle: float


def graph_chart(
    title: str,
    description: str,
    nodes: Sequence[Node],
    edges: Sequence[Edge],
    *,
    key: str,
    heaviest: float | None = None,
    size: Size | None = None,
) -> str:
    """Draw a graph.

    Parameters
    ----------
    title, description : str
        As in `line_chart`.
    nodes : sequence of Node
    edges : sequence of Edge
        All are drawn.
    key : str
        Letters and digits that no other graph on the page has.
    heaviest : float or None
        The weight of the widest edge, to compare graphs with each other; default: of these.
    size : Size

    Returns
    -------
    str
        An SVG.
    """
    size = size or Size(600.0, 520.0)
    radius = max(4.0, min(25.0, 150.0 / max(1, len(nodes))))
    if len(nodes) <= RING_MAX:
        radius = max(19.0, radius)
    longest = max([0, *(min(NAME_LENGTH, max(len(n.name), len(n.note))) for n in nodes)])
    room = CHARACTER * FONT * longest + 12 if len(nodes) <= NAMED_MAX else 8.0
    spots = [_spot(node, radius, room, size) for node in nodes]
    most = max([heaviest or 0.0, 1e-12, *(edge.weight for edge in edges)])
    fine = max(0.25, min(1.0, 60.0 / max(1, len(edges))))
    tip = element(
        "marker",
        element("path", d="M0 0 8 4 0 8z", class_="arrow"),
        id=f"tip-{key}",
        viewBox="0 0 8 8",
        refX=7,
        refY=4,
        markerWidth=6 + 4 * fine,
        markerHeight=6 + 4 * fine,
        markerUnits="userSpaceOnUse",
        orient="auto",
    )
    middle = size.width / 2, size.top + (size.height - size.top) / 2
    titled = len(edges) <= TITLED_MAX
    arrows = [
        _arrow(
            edge,
            spots,
            middle,
            radius,
            fine * (1.0 + 4.0 * math.sqrt(edge.weight / most)),
            titled=titled,
        )
        for edge in sorted(edges, key=lambda edge: edge.weight)
    ]
    body = [
        element("defs", tip),
        element(
            "g",
            *arrows,
            class_="edges" if titled else "edges dense",
            # Said once a graph, not once an arrow: there may be thousands.
            marker_end=f"url(#tip-{key})",
        ),
        *(_dot(node, spot, radius, len(nodes)) for node, spot in zip(nodes, spots, strict=True)),
    ]
    return drawing(title, description, size, body, "chart graph")


def _spot(node: Node, radius: float, room: float, size: Size) -> _Spot:
    angle = 2 * math.pi * node.place - math.pi / 2
    wide = max(40.0, size.width / 2 - radius - room)
    tall = max(40.0, (size.height - size.top) / 2 - radius - min(room, 38))
    # A ring, however wide the picture: on a flat one, arrows would lie on each other.
    wide = min(wide, 1.5 * tall)
    middle = size.top + (size.height - size.top) / 2
    return _Spot(size.width / 2 + wide * math.cos(angle), middle + tall * math.sin(angle), angle)


def _arrow(
    edge: Edge,
    spots: Sequence[_Spot],
    middle: tuple[float, float],
    radius: float,
    width: float,
    *,
    titled: bool,
) -> str:
    source, target = spots[edge.source], spots[edge.target]
    dx, dy = target.x - source.x, target.y - source.y
    mx, my = (source.x + target.x) / 2, (source.y + target.y) / 2
    bend = BENDS[0] if math.sin(target.angle - source.angle) > 1e-9 else BENDS[1]
    inward = math.copysign(bend, dy * (middle[0] - mx) - dx * (middle[1] - my))
    bx, by = mx + inward * dy, my - inward * dx
    sx, sy = _towards(source.x, source.y, bx, by, radius + 2)
    ex, ey = _towards(target.x, target.y, bx, by, radius + 4)
    path = f"M{number(sx)} {number(sy)}Q{number(bx)} {number(by)} {number(ex)} {number(ey)}"
    if not titled:
        return f'<path d="{path}" stroke-width="{number(width)}"/>'
    return element(
        "path",
        pointed_at(edge.about),
        d=path,
        stroke_width=width,
        data_of=f"{edge.source} {edge.target}",
    )


def _towards(x: float, y: float, bx: float, by: float, gap: float) -> tuple[float, float]:
    """Return the point that is `gap` from one point towards another, at most a third of the way."""
    length = math.hypot(bx - x, by - y) or 1.0
    part = min(gap, length / 3) / length
    return x + part * (bx - x), y + part * (by - y)


def _dot(node: Node, spot: _Spot, radius: float, count: int) -> str:
    middle = {"cx": spot.x, "cy": spot.y}
    parts = [
        pointed_at(node.about or node.name),
        element(
            "circle",
            **middle,
            r=radius,
            class_=f"body {node.kind}{'' if count <= RING_MAX else ' small'}",
        ),
    ]
    if count <= RING_MAX:
        if node.share is not None and node.share > 0:
            parts.append(element("path", d=_arc(spot, radius, node.share), class_="share"))
        place = {"x": spot.x, "y": spot.y + 4.5}
        parts.append(
            element("text", text(node.inside), **place, class_="inside", text_anchor="middle")
        )
    if count <= NAMED_MAX:
        parts += _names(node, spot, radius, count)
    return element("g", *parts, class_="node")


def _arc(spot: _Spot, radius: float, share: float) -> str:
    turn = 2 * math.pi * min(share, 0.9999)
    end = spot.x + radius * math.sin(turn), spot.y - radius * math.cos(turn)
    start = f"M{number(spot.x)} {number(spot.y - radius)}"
    size = number(radius)
    return f"{start}A{size} {size} 0 {int(share > 0.5)} 1 {number(end[0])} {number(end[1])}"


def _names(node: Node, spot: _Spot, radius: float, count: int) -> list[str]:
    across, down = math.cos(spot.angle), math.sin(spot.angle)
    beside = abs(across) > (0.3 if count <= RING_MAX else 0.08)
    anchor = "middle" if not beside else "start" if across > 0 else "end"
    two = bool(node.note) and count <= RING_MAX
    if beside:
        x = spot.x + math.copysign(radius + 7, across)
        y = spot.y + 5 - (7.5 if two else 0)
    else:
        x = spot.x
        y = spot.y + (radius + 16 if down > 0 else -radius - (24 if two else 9))
    name = element(
        "text", text(short(node.name, NAME_LENGTH)), x=x, y=y, class_="name", text_anchor=anchor
    )
    if not two:
        return [name]
    below = element("text", text(node.note), x=x, y=y + 15, class_="soft", text_anchor=anchor)
    return [name, below]
