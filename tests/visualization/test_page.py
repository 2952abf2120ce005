"""The report's page: tables of metrics, and everything escaped."""
import base64
import xml.etree.ElementTree as ElementTree

from freqdino.visualization.page import chart, metrics_tables, page, table


def cells(text):
    """Rows of all tables of an HTML fragment."""
    return [["".join(cell.itertext()) for cell in row] for row in ElementTree.fromstring(f"<x>{text}</x>").iter("tr")]


def test_metrics_tables():
    results = {"set": {"segm": {"AP": 12.34, "AP-big cat": 1.0, "AP-x-ray": None}, "sem_seg": {"mIoU": 5.0,
                       "IoU-x-ray": 7.0, "BoundaryIoU-x-ray": 9.0}}, "other": {"panoptic_seg": {"PQ": 3.0}}}
    assert cells(metrics_tables(results)) == [
        ["segm", "AP"], ["all", "12.3"], ["sem_seg", "mIoU"], ["all", "5.0"],
        ["class", "mask AP", "IoU"], ["big cat", "1.0", "–"], ["x-ray", "–", "7.0"], ["panoptic_seg", "PQ"],
        ["all", "3.0"]]


def test_everything_is_escaped():
    assert cells(table(["<a>", "n"], [["x & y", 1.0]])) == [["<a>", "n"], ["x & y", "1.0"]]
    text = page("<b>", "x < y", {"First one": "<p>content</p>"})
    assert "&lt;b&gt;" in text and '<section id="first">' in text and 'href="#first"' in text and "<b>" not in text


def test_a_chart_is_in_the_file_and_says_what_it_shows():
    figure = ElementTree.fromstring(chart({"a < b": [(0, 1.0), (10, 4.25)]}, title="T & U", x_label="step")
                                    .replace('"><figcaption', '"/><figcaption'))
    image = figure.find("img")
    assert figure.find("figcaption").text == "T & U" and image.get("alt") == "T & U by step: a < b 1 at 0 to 4.25 at 10"
    kind, _, data = image.get("src").partition(";base64,")
    assert kind == "data:image/svg+xml" and ElementTree.fromstring(base64.b64decode(data)).tag.endswith("}svg")
