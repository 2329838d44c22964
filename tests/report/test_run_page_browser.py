"""The reports in headless Chromium: no errors, tables sort, filters work, markup in class names does no harm.

Needs Chromium, such as Debian's package, and playwright, which drives it without a browser of its own.
"""

import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from effdet.report.comparison_page import write_comparison_page
from effdet.report.run_page import RunContent, write_run_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
analyses = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("analyses.py"))))

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Function that opens a page from the disk; at the end there must have been no error and no request."""
    complaints, pages = [], []

    def opened(write, width=1200, scheme="light"):
        path = tmp_path / "page.html"
        write(path)
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests(request.url))
        page.goto(path.as_uri())
        pages.append(page)
        return page

    def requests(url):
        if not url.startswith(("file:", "data:")):
            complaints.append(url)

    yield opened
    for page in pages:
        page.close()
    assert complaints == []


def content(analysis, name="run"):
    training, evaluations = analyses.log()
    return RunContent(name, f"runs/{name}", "2026-01-02 03:04", analysis, {}, training, evaluations)


def report(analysis):
    return lambda path: write_run_page(path, content(analysis), lambda image: np.zeros((60, 80, 3), np.uint8))


def column(page, number):
    return page.locator(".rows tbody tr").evaluate_all(f"rows => rows.map((row) => row.cells[{number}].textContent)")


def numbers(texts):
    return [float(text) for text in texts if text != "\u2013"]


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("make", [analyses.detection, analyses.classification])
def test_a_page_fits_its_window(visit, make, width, scheme):
    page = visit(report(make(names=[f"class {label}" for label in range(30)])), width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("h1").inner_text() == "run"


def test_every_column_sorts_in_both_directions(visit):
    analysis = analyses.detection(names=[f"class {label}" for label in range(120)])
    analysis["classes"][7] |= {"AP": None, "interval": None}
    page = visit(report(analysis))
    heads = page.locator(".rows thead button")
    for number in range(heads.count()):
        for expected in ("descending", "ascending") if number else ("ascending", "descending"):
            heads.nth(number).click()
            assert heads.nth(number).locator("xpath=..").get_attribute("aria-sort") == expected
            texts = column(page, number)
            assert len(texts) == 120
            if number == 0:
                in_order = [f"class {label}" for label in range(120)]  # by the number, not by the letters
                assert texts == (in_order if expected == "ascending" else in_order[::-1])
                continue
            values = numbers([text.partition(" to ")[0] for text in texts])
            assert values == sorted(values, reverse=expected == "descending")
            absent = [text == "\u2013" for text in texts]
            assert absent == sorted(absent), "classes without a value are last"


def test_a_table_of_a_thousand_classes_is_searched(visit):
    page = visit(report(analyses.detection(names=[f"class {label}" for label in range(1000)])))
    page.locator(".search").fill("CLASS 99")
    assert page.locator(".rows tbody tr:visible").count() == 11
    assert page.locator(".sortable .count").inner_text() == "11 of 1000"
    page.locator(".rows thead button").first.click()
    page.locator(".search").fill("")
    assert page.locator(".sortable .count").inner_text() == "1000"
    first = page.locator(".rows tbody tr").count()
    assert 0 < first < 1000  # the others follow when the table is scrolled
    for _ in range(20):
        page.locator(".tall").evaluate("table => { table.scrollTop = table.scrollHeight; }")
        page.wait_for_timeout(50)
    assert column(page, 0) == [f"class {label}" for label in range(1000)]


def test_the_gallery_shows_the_images_of_a_kind_and_of_a_class(visit):
    page = visit(report(analyses.detection()))
    visible = page.locator(".gallery figure:visible")
    assert visible.count() == len(analyses.KINDS)
    for number, kind in enumerate(analyses.KINDS):
        page.locator(f".chip[data-kind={kind}]").click()
        assert visible.count() == 1
        assert f"image-{number}.png" in visible.inner_text()
    page.locator(".chip[data-kind='']").click()
    page.locator("select.classes").select_option("1")
    assert visible.count() == 2
    assert page.locator(".gallery .count").inner_text() == "2 of 6 images"
    page.locator(".chip[data-kind=missed]").click()
    assert visible.count() == 0


def test_boxes_of_truth_and_correct_detections_can_be_hidden(visit):
    page = visit(report(analyses.detection()))
    assert page.locator("rect.truth:visible").count() == 5
    page.locator("[data-show=truth]").uncheck()
    assert page.locator("rect.truth:visible").count() == 0
    assert page.locator("rect.k-missed:visible").count() == 1
    page.locator("[data-show=right]").uncheck()
    assert page.locator(".gallery rect.right:visible").count() == 0


def test_an_image_is_enlarged_and_the_keys_go_on(visit):
    page = visit(report(analyses.detection()))
    page.locator(".gallery .open").first.click()
    caption = page.locator("#large p")
    assert "image-0.png" in caption.inner_text()
    page.keyboard.press("ArrowRight")
    assert "image-1.png" in caption.inner_text()
    page.locator("#large .close").click()
    assert page.locator("#large").is_hidden()


def test_the_curves_of_a_class_are_drawn_over_those_of_all(visit):
    page = visit(report(analyses.detection()))
    assert page.locator("#curve-class option").all_inner_texts() == ["all classes only", "red", "white"]
    page.locator("#curve-class").select_option("1")
    assert page.locator(".curve.own").count() == 2
    (all_classes, own) = page.locator("[data-plot=precision] .curve > path").evaluate_all(
        "paths => paths.map((path) => path.getAttribute('d').match(/[\\d.]+/g).map(Number))"
    )
    np.testing.assert_allclose(own, all_classes, atol=0.35)  # of the same values in thousandths
    page.locator("#curve-class").select_option("")
    assert page.locator(".curve.own").count() == 0


def test_values_are_shown_at_the_pointer(visit):
    page = visit(report(analyses.detection()))
    plot = page.locator("[data-plot=F1]")
    plot.scroll_into_view_if_needed()
    box = plot.locator("svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] * (54 + 202) / 480, box["y"] + box["height"] / 2)
    tip = plot.locator(".tip")
    assert tip.inner_text().splitlines() == [
        "confidence threshold: 0.5",
        "precision: 50.0%",
        "recall: 60.0%",
        "F1: 100.0%",
    ]
    page.mouse.move(0, 0)
    assert tip.is_hidden()


@pytest.mark.parametrize("make", [analyses.detection, analyses.classification])
def test_markup_in_class_and_file_names_does_no_harm(visit, make):
    analysis = make(names=analyses.HOSTILE)
    for image, name in zip(analysis["worst"], analyses.HOSTILE, strict=False):
        image["file_name"] = name
    page = visit(report(analysis))
    if make is analyses.detection:
        page.locator("#curve-class").select_option("0")
    page.locator(".rows thead button").first.click()
    page.locator("select.classes").select_option("0")
    page.locator(".gallery figure:visible .open").first.click()
    assert page.title() == "run: report"
    assert sorted(column(page, 0)) == sorted(name.replace("\x00", "\ufffd") for name in analyses.HOSTILE)
    assert page.locator("script").count() == (2 if make is analyses.detection else 1)
    assert page.locator("img[src=x]").count() == 0


def test_several_runs_are_compared(visit):
    runs = [content(analyses.detection(), "first"), content(analyses.detection(seed=1), analyses.HOSTILE[0])]
    pair = {"a": "first", "b": analyses.HOSTILE[0], "metric": "AP", "difference": 0.02, "interval": [0.01, 0.03]}
    paired = {"pairs": [{**pair, "noise": [0.01, 0.01], "verdict": "different"}], "notes": ["of seeds"]}
    page = visit(
        lambda path: write_comparison_page(path, runs, paired, [("train.epochs", ["1", "2"])], ["careful"]), 390
    )
    text = page.locator("main").inner_text()
    for shown in (
        "2 runs side by side",
        "+2.0",
        "+1.0 to +3.0",
        "different: second is higher",
        "careful",
        "train.epochs",
    ):
        assert shown in text, shown
    page.locator(".rows thead button").nth(2).click()
    assert page.title() == "comparison of runs"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
