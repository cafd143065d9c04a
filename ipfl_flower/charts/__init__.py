"""Charts as SVG text, and pages to put them in: pure functions of numbers, no ledger, no Flower.

Everything that is drawn has a title and a description for who can't see it. Colours are classes:
on a page they follow its light or dark theme; `png.rasterise` fills them in.
"""

from ipfl_flower.charts.bars import Bar, Row, bar_chart
from ipfl_flower.charts.graph import Edge, Node, graph_chart
from ipfl_flower.charts.heat import heat_map
from ipfl_flower.charts.lines import Level, Series, line_chart
from ipfl_flower.charts.svg import Size

__all__ = [
    "Bar",
    "Edge",
    "Level",
    "Node",
    "Row",
    "Series",
    "Size",
    "bar_chart",
    "graph_chart",
    "heat_map",
    "line_chart",
]
