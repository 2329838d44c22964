import json
import math
import re
import runpy
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from effdet.report.html_page import escaped, json_script
from effdet.report.plots import Axis, Line, line_plot, log_ticks, ticks
from effdet.report.run_page import RunContent, write_run_page
from effdet.report.training_plots import series

analyses = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("analyses.py"))))
VOID = {"meta", "br", "input", "img", "link", "hr"}
PICTURE = np.full((60, 80, 3), 128, np.uint8)


class Page(HTMLParser):
    """Elements of a page; fails where an element is closed that is not the last one opened."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        assert len(attributes) == len(dict(attributes)), f"an attribute is given twice: {attributes}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self):
        return " ".join(" ".join(data.split()) for tag, data in self.texts if tag not in ("script", "style"))

    def scripts(self):
        return [attributes for tag, attributes in self.elements if tag == "script"]


def content(analysis, **fields):
    return RunContent("run", "runs/run", "2026-01-02 03:04", analysis, {"AP": "average precision"}, **fields)


def page_of(tmp_path, analysis, picture=lambda image: PICTURE, **fields):
    write_run_page(tmp_path / "report.html", content(analysis, **fields), picture)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    return SimpleNamespace(text=text, parsed=Page(text))


def test_a_detectors_page_shows_every_subject(tmp_path):
    training, evaluations = analyses.log()
    config = {"model": {"name": "efficientdet_lite0"}, "train": {"epochs": 7}, "data": {"root": "/data/cells"}}
    start = {"versions": {"torch": "2.9"}, "time": "2026-01-01T10:00:00+00:00", "hardware": {"device": "cpu"}}
    page = page_of(
        tmp_path,
        analyses.detection(),
        training=training,
        evaluations=evaluations,
        config=config,
        start=start,
        notes=["log.jsonl: cannot be read"],
    )
    text = page.parsed.text()
    for shown in (
        *("54.3%", "50.0 to 60.0", "average precision", "runs/x/best.pt", "efficientdet_lite0", "/data/cells", "2.9"),
        *(
            "NMS: per class, IoU 0.5",
            "score threshold: 0.001",
            "max detections: 100 per image; COCO counts: 100 per image and class",
            "Training loss",
            "Learning rate",
        ),
        *("Precision over recall", "F1 over confidence", "What costs AP", "Confusion matrix", "calibration error"),
        *("Which threshold for what", "not reached", "red", "platelet", "image-5.png", "log.jsonl: cannot be read"),
    ):
        assert shown in text, shown
    assert text.count("\u2013") >= 3  # what was not measured
    assert page.text.count("data:image/jpeg;base64,") == len(analyses.KINDS)


def test_a_classifiers_page_shows_its_own_plots(tmp_path):
    training, evaluations = analyses.log(metric="top1")
    page = page_of(tmp_path, analyses.classification(), training=training, evaluations=evaluations)
    text = page.parsed.text()
    for shown in ("75.0%", "Accuracy over coverage", "Confusion matrix", "confused with", "true tulip", "70.0 to 80.0"):
        assert shown in text, shown
    assert "What costs AP" not in text


def test_the_page_allows_no_network_and_no_other_script(tmp_path):
    page = page_of(tmp_path, analyses.detection())
    policy = next(
        attributes["content"]
        for tag, attributes in page.parsed.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/=]+'$", policy)
    data, script = page.parsed.scripts()
    assert (data["type"], script) == ("application/json", {})
    for _, attributes in page.parsed.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/jpeg;base64,"))


@pytest.mark.parametrize("make", [analyses.detection, analyses.classification])
def test_markup_in_names_stays_text(tmp_path, make):
    analysis = make(names=analyses.HOSTILE)
    for image, name in zip(analysis["worst"], analyses.HOSTILE, strict=False):
        image["file_name"] = name
    config = {"model": {"name": analyses.HOSTILE[0]}, "data": {"root": analyses.HOSTILE[1]}}
    page = page_of(tmp_path, analysis, config=config, notes=[analyses.HOSTILE[0]])
    plain = page_of(tmp_path, make(names=("a", "b", "c", "d", "e")), config=config)
    assert len(page.parsed.scripts()) == len(plain.parsed.scripts())
    assert "onerror" not in {name for _, attributes in page.parsed.elements for name in attributes}
    assert not [attributes for tag, attributes in page.parsed.elements if attributes.get("src") == "x"]
    assert analyses.HOSTILE[0] in page.parsed.text()
    assert "\x00" not in page.text


def test_script_data_cannot_end_its_element():
    text = json_script("data", {"names": list(analyses.HOSTILE)})
    inside = text.removeprefix('<script type="application/json" id="data">').removesuffix("</script>")
    assert not set("<>&\u2028") & set(inside)
    assert json.loads(inside) == {"names": list(analyses.HOSTILE)}


def test_attributes_are_quoted_and_control_characters_are_replaced():
    assert escaped("\"'<&\x00\x1b\u202e") == "&quot;&#x27;&lt;&amp;\ufffd\ufffd\u202e"


@pytest.mark.parametrize("classes", [1, 2, 6, 25, 80, 300])
def test_any_number_of_classes_gives_a_balanced_page(tmp_path, classes):
    names = [f"class {label}" for label in range(classes)]
    page = page_of(tmp_path, analyses.detection(names=names))
    rows = [attributes for tag, attributes in page.parsed.elements if attributes.get("scope") == "row"]
    assert len(rows) == classes
    assert "aria-label" in str(page.parsed.elements)


def test_a_page_of_a_thousand_classes_is_small(tmp_path):
    names = [f"class {label}" for label in range(1000)]
    page = page_of(tmp_path, analyses.detection(names=names), picture=lambda image: None)
    assert len(page.text) < 3_000_000


def test_images_are_limited_and_their_boxes_too(tmp_path):
    analysis = analyses.detection()
    crowded = analysis["worst"][0]
    crowded["detections"] = [{"box": [0, 0, 9, 9], "label": 0, "score": 0.5, "error": "background"}] * 500
    analysis["worst"] = [crowded] * 100
    page = page_of(tmp_path, analysis)
    assert sum(tag == "figure" for tag, _ in page.parsed.elements) == 72
    assert len(page.text) < 3_000_000


def test_images_that_cannot_be_read_say_so(tmp_path):
    page = page_of(tmp_path, analyses.detection(), picture=lambda image: None)
    assert page.parsed.text().count("no picture") == len(analyses.KINDS)
    page = page_of(tmp_path, analyses.classification(), picture=lambda image: None)
    assert page.parsed.text().count("no picture") == 3


def empty_detection():
    nothing = dict.fromkeys(("AP", "AP50", "AP75", "APs", "F1", "precision", "recall", "threshold", "interval"))
    return {
        "task": "detection",
        "weights": None,
        "images": 3,
        "objects": 0,
        "crowds": 0,
        "detections": 0,
        "settings": {},
        "metrics": {"AP": -1.0, "AP50": -1.0},
        "intervals": None,
        "classes": [{"name": "red", "category_id": 1, "images": 0, "objects": 0, **nothing}],
        "thresholds": {"best": {"score": None, "F1": None, "precision": None, "recall": None}},
        "curves": {
            "recall": [0.0, 1.0],
            "precision": {"all": [None, None], "classes": [None]},
            "score": [0.0, 1.0],
            "F1": {"all": [None, None], "classes": [None]},
        },
        "confusion": {"score_threshold": 0.5, "iou_threshold": 0.5, "names": ["red"], "entries": []},
        "errors": {**dict.fromkeys((*analyses.KINDS, "AP50")), "counts": {}},
        "calibration": None,
        "worst": [],
    }


def test_a_data_set_without_objects_has_a_page(tmp_path):
    text = page_of(tmp_path, empty_detection()).parsed.text()
    assert "The images have no objects, so nothing could be measured." in text
    assert "no errors at this confidence threshold" in text


def test_only_the_needed_keys_give_a_page(tmp_path):
    for task in ("detection", "classification"):
        analysis = {"task": task, "images": 0, "objects": 0, "detections": 0, "metrics": {}, "classes": []}
        assert "Overview" in page_of(tmp_path, analysis).parsed.text()


def test_a_log_with_nan_and_a_single_record_is_drawn(tmp_path):
    training = [{"step": 1, "epoch": 1, "seconds": 0.0, "learning_rate": 0.1, "loss": math.nan}]
    page = page_of(tmp_path, analyses.detection(), training=training)
    assert "Learning rate" in page.parsed.text()
    assert "nan" not in page.text.lower().replace("number.isnan", "")
    training.append({"step": 2, "epoch": 1, "seconds": 0.0, "learning_rate": 0.1, "loss": 3.0})
    assert "Training loss" in page_of(tmp_path, analyses.detection(), training=training).parsed.text()


def test_a_long_log_is_drawn_as_means_of_groups():
    records = [{"step": step, "loss": float(step)} for step in range(1, 10_001)]
    points = series(records, "loss")
    assert len(points) <= 240
    assert all(step == pytest.approx(value) for step, value in points)
    steps = np.diff([step for step, _ in points])
    assert np.allclose(steps[:-1], steps[0])


def test_lines_follow_the_values():
    svg = line_plot([Line("a", [(0, 0.0), (5, None), (10, 1.0)])], Axis("x", 0, 10), Axis("y", 0, 1))
    (path,) = re.findall(r'class="line c0" d="([^"]+)"', svg)
    (x0, y0), (x1, y1) = (map(float, pair) for pair in re.findall(r"M([\d.]+) ([\d.]+)", path))
    left, right, top, bottom = map(float, re.search(r'data-frame="(\S+) (\S+) (\S+) (\S+)', svg).groups())
    assert (x0, y0, x1, y1) == (left, bottom, right, top)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.03), (0, 12345), (-3, 7), (2, 2)])
def test_ticks_are_inside_and_evenly_spaced(low, high):
    values = ticks(low, high)
    assert values
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in values)
    steps = [after - before for before, after in pairwise(values)]
    assert all(step == pytest.approx(steps[0]) for step in steps)
    assert len(values) <= 8


def test_ticks_of_a_logarithmic_axis_are_inside():
    assert log_ticks(0.01, 1.5) == pytest.approx([0.01, 0.1, 1.0])
    assert log_ticks(0.9, 30) == pytest.approx([1, 2, 5, 10, 20])
