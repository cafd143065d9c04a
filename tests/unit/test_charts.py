"""Charts: what is drawn is what the numbers say, whatever they and the names are."""

import hashlib
import math
import re
import sys
from base64 import b64encode
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from ipfl_flower.charts import (
    Bar,
    Edge,
    Level,
    Node,
    Row,
    Series,
    Size,
    bar_chart,
    graph_chart,
    heat_map,
    line_chart,
)
from ipfl_flower.charts.document import document, steps, table
from ipfl_flower.charts.png import PngError, rasterise
from ipfl_flower.charts.scale import Scale, bounds, spread, ticks, whole_ticks
from ipfl_flower.charts.svg import SLIDE, element, number, short, text
from ipfl_flower.charts.theme import CHART_CSS, DARK, LIGHT, filled

HOSTILE = "<script>alert(1)</script>\"'&\u202e\x00\ud800"
NS = "{http://www.w3.org/2000/svg}"


def parse(svg):
    return ET.fromstring(svg.encode())  # lone surrogates would not encode, markup not parse


def all_of(svg, tag, kind=""):
    found = parse(svg).iter(f"{NS}{tag}")
    return [item for item in found if kind in (item.get("class") or "")]


def points(path):
    return [tuple(map(float, pair)) for pair in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)]


# --- text and scales ------------------------------------------------------------------------------


def test_what_strangers_wrote_is_escaped_and_spelled_out():
    said = text(HOSTILE)
    assert "<" not in said
    assert '"' not in said
    assert "'" not in said
    assert said.encode().isascii()
    assert r"\u202e\x00\ud800" in said
    assert element("a", said, title=HOSTILE).count("<") == 2


def test_numbers_are_short_and_names_are_cut():
    assert [number(value) for value in (1.0, 1.25, -0.01, 1e5)] == ["1", "1.2", "0", "100000"]
    assert short("abcdef", 4) == "abc…"
    assert short("abcd", 4) == "abcd"


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-3.2, 7.1), (0.51, 0.93), (1e6, 1e6 + 3), (-1e-9, 1e-9)]
)
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 12
    assert low - 1e-9 * (high - low) <= found[0] <= found[-1] <= high + 1e-6 * (high - low)
    steps_ = np.diff(found)
    assert np.allclose(steps_, steps_[0], rtol=1e-3)


def test_ticks_end_where_a_step_is_less_than_what_tells_numbers_apart():
    assert len(ticks(1e17, 1e17 + 32)) <= 20
    assert whole_ticks(0, 0) == [0]
    assert whole_ticks(0, 3, 10) == [0, 1, 2, 3]


def test_an_axis_without_a_whole_number_has_no_ticks():
    assert whole_ticks(1, 0) == []
    svg = line_chart("T", "D", [0.1, 0.5, 0.9], [Series("a", [0.0, 1.0, 2.0])])
    assert len(all_of(svg, "path", "line")) == 1


def test_bounds_have_room_also_where_there_is_nothing():
    assert bounds([None, math.nan, math.inf]) == bounds([0.0, 1.0])
    low, high = bounds([5.0])
    assert low < 5 < high
    assert Scale(2.0, 2.0, 0.0, 10.0)(2.0) == 5.0


def test_labels_are_moved_apart_and_stay_inside():
    moved = spread([10.0, 10.0, 10.0, 99.0], 5.0, 0.0, 100.0)
    assert moved[:3] == [10.0, 15.0, 20.0]
    assert spread([99.0, 98.0], 5.0, 0.0, 100.0) == [100.0, 95.0]


# --- lines ----------------------------------------------------------------------------------------


def test_a_line_goes_through_its_values_and_has_gaps_where_there_are_none():
    series = [Series("a", [0.0, 1.0, None, 3.0]), Series("b", [3.0, 2.0, 1.0, math.nan])]
    svg = line_chart("T", "D", [0, 1, 2, 3], series)
    first, second = (item.get("d") for item in all_of(svg, "path", "line"))
    assert first.count("M") == 2
    (x0, y0), (x1, y1), (x3, y3) = points(first)
    assert x1 - x0 == pytest.approx((x3 - x0) / 3, abs=0.2)
    assert y0 - y1 == pytest.approx((y0 - y3) / 3, abs=0.2)
    assert y0 > y3  # up is more
    assert points(second)[0][1] == y3
    labels = [item.text for item in all_of(svg, "text", "label")]
    assert labels == ["a 3", "b 1"]


def test_points_say_their_values_and_one_between_gaps_shows_itself():
    svg = line_chart("T", "D", [0, 1, 2], [Series("a", [1.0, None, 2.5])], names=["x", "y", "z"])
    titles = [item.find(f"{NS}title").text for item in all_of(svg, "circle", "lone")]
    assert titles == ["a, x: 1", "a, z: 2.5"]


def test_a_band_lies_around_its_line_and_a_level_across():
    series = Series("mean", [1.0, 2.0], low=[0.0, 1.0], high=[2.0, 3.0], kind="strong")
    svg = line_chart("T", "D", [0, 1], [series], levels=[Level("alone", 1.5)])
    [band], [line] = all_of(svg, "path", "band"), all_of(svg, "path", "line")
    ys = [y for _, y in points(band.get("d"))]
    middle = [y for _, y in points(line.get("d"))]
    assert ys[0] < middle[0] < ys[3]  # high is up
    [level] = all_of(svg, "path", "level")
    y = float(re.search(r"M[\d.]+ ([\d.]+)H", level.get("d"))[1])
    assert y == pytest.approx(sum(middle) / 2, abs=0.2)
    assert "alone 1.5" in [item.text for item in all_of(svg, "text", "label")]


@pytest.mark.parametrize(
    ("xs", "series"),
    [([], []), ([0], [Series("a", [1.0])]), ([0, 1], [Series("a", [None, math.nan])])],
)
def test_a_chart_of_little_or_nothing_is_a_chart(xs, series):
    svg = line_chart("T", "D", xs, series)
    assert "nan" not in svg.lower()
    assert ("Nothing is known." in svg) == (not series or series[0].values[0] is None)


def test_a_chart_says_what_it_is_to_who_can_not_see_it():
    for svg in (
        line_chart("Title", "What & why", [0], [Series("a", [1.0])]),
        bar_chart("Title", "What & why", [Row("a", [Bar("b", 1.0)])]),
        graph_chart("Title", "What & why", [Node("a", 0.0)], [], key="k"),
        heat_map("Title", "What & why", ["a"], [[1.0]]),
    ):
        root = parse(svg)
        assert root.get("role") == "img"
        assert root.get("aria-label") == "Title. What & why"
        assert root.find(f"{NS}desc").text == "What & why"


def test_a_slide_says_its_title_in_the_picture():
    svg = line_chart("Title", "Why", [0], [Series("a", [1.0])], size=SLIDE)
    assert [item.text for item in all_of(svg, "text", "heading")] == ["Title"]
    assert parse(svg).get("viewBox") == "0 0 960 540"


# --- bars, graph, heat ----------------------------------------------------------------------------


def test_bars_begin_at_zero_and_are_as_long_as_their_values():
    rows = [Row("a", [Bar("in", 10.0, 2), Bar("out", -5.0, 1)], "+5"), Row("b", [Bar("in", 2.5)])]
    rects = list(all_of(bar_chart("T", "D", rows), "rect", "bar"))[3:]  # the legend
    widths = [float(item.get("width")) for item in rects]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    assert widths[0] == pytest.approx(4 * widths[2], abs=0.4)
    x = [float(item.get("x")) for item in rects]
    assert x[1] + widths[1] == pytest.approx(x[0], abs=0.2)


def test_bars_in_lanes_lie_below_each_other_with_their_spread():
    rows = [Row("a", [Bar("x", 1.0, 0, 0, 0.5, 1.5), Bar("y", 2.0, 1, 1)])]
    svg = bar_chart("T", "D", rows)
    first, second = all_of(svg, "rect", "bar")[2:]
    assert float(first.get("y")) + float(first.get("height")) == pytest.approx(
        float(second.get("y")), abs=0.2
    )
    assert len(all_of(svg, "path", "spread")) == 1
    assert bar_chart("T", "D", [])


def test_an_arrow_goes_from_its_source_to_its_target_and_dearer_is_wider():
    nodes = [Node("a", 0.0), Node("b", 0.25), Node("c", 0.5), Node("d", 0.75)]
    edges = [Edge(0, 2, 4.0, "a to c"), Edge(2, 0, 1.0, "c to a")]
    svg = graph_chart("T", "D", nodes, edges, key="k", size=Size(400, 400))
    at = [(float(item.get("cx")), float(item.get("cy"))) for item in all_of(svg, "circle", "body")]
    drawn = {
        item.get("data-of"): item for item in parse(svg).iter(f"{NS}path") if item.get("data-of")
    }
    for edge in edges:
        item = drawn[f"{edge.source} {edge.target}"]
        begin = tuple(map(float, re.match(r"M([\d.]+) ([\d.]+)Q", item.get("d")).groups()))
        end = tuple(map(float, item.get("d").rsplit(" ", 2)[1:]))
        assert math.dist(begin, at[edge.source]) < 45 < math.dist(begin, at[edge.target])
        assert math.dist(end, at[edge.target]) < 45
        assert item.find(f"{NS}title").text == edge.about
    assert float(drawn["0 2"].get("stroke-width")) > float(drawn["2 0"].get("stroke-width"))
    assert drawn["0 2"].get("d") != drawn["2 0"].get("d")
    assert 'marker-end="url(#tip-k)"' in svg
    assert 'id="tip-k"' in svg


def test_a_node_shows_its_share_its_name_and_what_is_the_matter():
    nodes = [Node("a" * 30, 0.0, 0.75, "75", "+1", "all about it", "held"), Node("b", 0.5)]
    svg = graph_chart("T", "D", nodes, [], key="k")
    assert len(all_of(svg, "path", "share")) == 1
    assert len(all_of(svg, "circle", "held")) == 1
    names = [item.text for item in all_of(svg, "text", "name")]
    assert names == ["a" * 13 + "…", "b"]
    assert "all about it" in svg
    inside = [item.text for item in all_of(svg, "text", "inside")]
    assert inside == ["75", None]


def test_a_large_graph_is_small_and_stays_in_its_frame():
    nodes = [Node(f"n{k}", k / 100, 0.5, "50") for k in range(100)]
    edges = [Edge(i, (i * 7 + k) % 100, 1.0, "long " * 9) for i in range(100) for k in range(1, 5)]
    edges = [edge for edge in edges if edge.source != edge.target]
    svg = graph_chart("T", "D", nodes, edges, key="k")
    assert len(svg) < 100 * len(edges) + 200 * len(nodes)
    for item in all_of(svg, "circle", "body"):
        assert 0 < float(item.get("cx")) < 600
        assert 0 < float(item.get("cy")) < 520


def test_a_cell_is_the_darker_the_more_it_holds():
    for count in (3, 50):  # each a cell of its own; one path a shade
        values = np.zeros((count, count))
        values[0, 1], values[1, 2], values[2, 0] = 6.0, 3.0, 0.1
        svg = heat_map("T", "D", [f"n{k}" for k in range(count)], values.tolist())
        assert {
            item.get("class") for item in parse(svg).iter() if (item.get("class") or "")[:1] == "h"
        } == {
            "h6",
            "h3",
            "h1",
        }
    assert heat_map("T", "D", [], [])


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_every_colour_of_a_chart_is_in_both_themes(theme):
    assert LIGHT.keys() == DARK.keys()
    assert "var(" in CHART_CSS
    assert "var(" not in filled(theme)


# --- pages ----------------------------------------------------------------------------------------


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found, self.words = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_a_page_runs_its_own_script_alone_and_loads_nothing():
    page = document("A & B", "", [("one", "One", table(HOSTILE, [(HOSTILE, False)], [[HOSTILE]]))])
    elements = Elements(page)
    assert [tag for tag, _ in elements.found].count("script") == 1
    assert [tag for tag, _ in elements.found].count("style") == 1
    assert {"img", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in elements.found)
    for tag, attributes in elements.found:
        assert "style" not in attributes, tag
        assert not any(name.startswith("on") for name in attributes), tag
        href = attributes.get("href", attributes.get("src", "#"))
        assert href.startswith("#"), tag
    policy = next(a["content"] for _, a in elements.found if "http-equiv" in a)
    for tag in ("script", "style"):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
        digest = b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "<title>A &amp; B</title>" in page


def test_steps_show_one_part_without_a_script():
    html = steps("s", "Round", [("0", "a"), ("1", "b"), ("2", "c")], 1)
    opened = [
        ("open" in attributes) for tag, attributes in Elements(html).found if tag == "details"
    ]
    assert opened == [False, True, False]


# --- PNG ------------------------------------------------------------------------------------------


def test_a_png_is_1600_by_900_and_has_its_letters():
    pytest.importorskip("resvg_py", reason="pip install 'ipfl-flower[report]'")
    bare = line_chart("", "", [0, 1], [Series("a", [1.0, 2.0])], size=SLIDE)
    titled = line_chart("Title", "", [0, 1], [Series("a", [1.0, 2.0])], size=SLIDE)
    content = rasterise(titled)
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert [int.from_bytes(content[k : k + 4]) for k in (16, 20)] == [1600, 900]
    assert content != rasterise(bare)
    assert content != rasterise(titled, theme=DARK)
    hostile = line_chart(HOSTILE, HOSTILE, [0], [Series(HOSTILE, [1.0])], size=SLIDE)
    assert rasterise(hostile)[:4] == b"\x89PNG"


def test_a_png_without_the_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(PngError, match=r"pip install 'ipfl-flower\[report\]'"):
        rasterise("<svg/>")
