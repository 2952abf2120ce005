"""Line charts: round ticks, points, legend."""
import xml.etree.ElementTree as ElementTree

import pytest

from freqdino.visualization.charts import Axis, line_chart


@pytest.mark.parametrize(("values", "ticks"), [
    ([0, 1200], [0, 500, 1000, 1500]), ([0, 8.9], [0, 5, 10]), ([-1, 3], [-1, 0, 1, 2, 3]), ([0, 0], [0, 1]),
    ([0, 0.031], [0, 0.01, 0.02, 0.03, 0.04])])
def test_ticks_are_round_and_enclose_the_values(values, ticks):
    axis = Axis(values, 100, 20)
    assert axis.ticks == pytest.approx(ticks)
    assert (axis(ticks[0]), axis(ticks[-1])) == (100, 20)
    assert axis((ticks[0] + ticks[-1]) / 2) == pytest.approx(60)


def test_chart():
    figure = ElementTree.fromstring(line_chart({"a < b": [(0, 1.0), (10, 4.0)], "c": [(10, 2.0)]}, title="T & U",
                                               x_label="iteration"))
    assert figure.find("figcaption").text == "T & U"
    assert [item.find("span").tail for item in figure.iter("li")] == ["a < b", "c"]
    assert [circle.find("title").text for circle in figure.iter("circle")] == ["a < b at 0: 1", "a < b at 10: 4",
                                                                             "c at 10: 2"]
    lines = [line.get("points") for line in figure.iter("polyline")]
    # The axes are 0..10 and 0..4 on 56..616 and 240..12.
    assert lines == ["56.0,183.0 616.0,12.0", "616.0,126.0"]
