"""Line charts: points, legend, axes that begin at 0."""
from freqdino.visualization.charts import line_chart


def test_line_chart():
    axis, = line_chart({"a < b": [(5, 1.0), (10, 4.0)], "c": [(10, 2.0)]}, x_label="iteration").axes
    assert [line.get_xydata().tolist() for line in axis.lines] == [[[5, 1], [10, 4]], [[10, 2]]]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a < b", "c"]
    assert axis.get_xlabel() == "iteration" and axis.get_xlim()[0] == axis.get_ylim()[0] == 0


def test_negative_values_are_within_the_axes():
    axis, = line_chart({"loss": [(1, -3.0), (2, 1.0)]}, x_label="iteration").axes
    assert axis.get_ylim()[0] < -3
