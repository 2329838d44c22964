"""The page `examples/browser` in headless Chromium: its letterbox and its detections are those of the Predictor.

Needs Chromium, and the two files of onnxruntime-web in `examples/browser/ort`, which docs/export.md says how to get.
"""

import http.server
import importlib.util
import json
import queue
import shutil
import subprocess
import threading
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from effdet.data.letterbox import letterbox
from effdet.inference.predictor import Predictor
from effdet.models import ModelOptions, make_spec
from effdet.types import PostprocessOptions
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import save_checkpoint
from effdet.weights.exported import ExportCard

PAGE = Path(__file__).resolve().parents[2] / "examples" / "browser"
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 120

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
needs_runtime = pytest.mark.skipif(
    not all((PAGE / "ort" / name).is_file() for name in RUNTIME) or importlib.util.find_spec("onnxscript") is None,
    reason="examples/browser/ort has no onnxruntime-web, or onnxscript is not installed",
)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; the body of a POST goes into a queue."""

    def __init__(self, *arguments, results, **options):
        self.results = results
        self.extensions_map = {**self.extensions_map, ".mjs": "text/javascript"}
        super().__init__(*arguments, **options)

    def do_POST(self):
        self.results.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments):
        pass


def run_page(folder, name):
    """What the page `name` of a folder posts."""
    results = queue.Queue()
    handler = partial(Handler, directory=str(folder), results=results)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{name}"
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")
        command = [CHROMIUM, *options, f"--user-data-dir={folder / 'profile'}", address]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
            try:
                return results.get(timeout=SECONDS)
            finally:
                browser.terminate()
                server.shutdown()


def write_image(path, height, width, seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(path), image[..., ::-1])
    return image


LETTERBOX_PAGE = """<script type="module">
import { letterbox } from "./detector.js";
const results = [];
for (const { file, spec } of CASES) {
  const bitmap = await createImageBitmap(await (await fetch(file)).blob(), { colorSpaceConversion: "none" });
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const { pixels, scale } = letterbox(context.getImageData(0, 0, bitmap.width, bitmap.height), spec);
  results.push({ pixels: [...pixels], scale });
}
await fetch("/results", { method: "POST", body: JSON.stringify(results) });
</script>"""


def test_the_letterbox_of_the_page_is_that_of_the_package(tmp_path):
    shutil.copy(PAGE / "detector.js", tmp_path)
    images = [write_image(tmp_path / f"{seed}.png", *size, seed) for seed, size in enumerate([(90, 160), (200, 77)])]
    spec = {"backbone": {"mean": [123.675, 116.28, 103.53]}, "black_padding": False}
    sizes = [(64, 96), (128, 128), (300, 200)]
    cases = [
        (number, {**spec, "image_size": size, "antialias": antialias, "letterbox": mode})
        for number in range(len(images))
        for size in sizes
        for antialias in (True, False)
        for mode in ("pad", "stretch")
    ]
    plain = json.dumps([{"file": f"{number}.png", "spec": case} for number, case in cases])
    (tmp_path / "test.html").write_text(LETTERBOX_PAGE.replace("CASES", plain))
    results = run_page(tmp_path, "test.html")
    assert len(results) == len(cases)
    for (number, case), result in zip(cases, results, strict=True):
        size = case["image_size"]
        pixels, scale = letterbox(images[number], size, (124, 116, 104), case["antialias"], case["letterbox"])
        assert tuple(result["scale"]) == scale
        own = np.array(result["pixels"]).reshape(*size, 3)
        assert np.abs(own - pixels.astype(int)).max() <= 2


FRAME_PAGE = """<iframe src="index.html?model=model.onnx&image=image.png&threshold=0.3"></iframe>
<script type="module">
const frame = document.querySelector("iframe");
for (;;) {
  const { dataset } = frame.contentDocument.documentElement;
  if (dataset.state === "done" || dataset.state === "error") break;
  await new Promise((resolve) => setTimeout(resolve, 50));
}
const body = { detections: frame.contentWindow.detections, text: frame.contentDocument.body.innerText };
await fetch("/results", { method: "POST", body: JSON.stringify(body) });
</script>"""


@needs_runtime
def test_the_detections_of_the_page_are_those_of_the_predictor(tmp_path):
    """The image is not resized, because random weights amplify differences of rounding."""
    from effdet.exporting.onnx_file import write_onnx

    torch.manual_seed(0)
    spec = make_spec(ModelOptions("efficientdet_lite0", image_size=(128, 128)))
    model = spec.build(3)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    torch.nn.init.normal_(model.class_head.predict.pointwise.weight, std=0.3)
    with torch.no_grad():  # statistics of images, with which the scores of random weights differ
        model.train()(torch.randint(0, 256, (4, 3, 128, 128), dtype=torch.uint8))
    model.eval()
    card = ModelCard(spec, ("red", "white", "platelet"), (1, 2, 3))
    save_checkpoint(tmp_path / "best.pt", model.state_dict(), card)
    shutil.copytree(PAGE, tmp_path, dirs_exist_ok=True)
    write_onnx(model, ExportCard(card, "detections", postprocess=PostprocessOptions()), tmp_path / "model.onnx")
    write_image(tmp_path / "image.png", 90, 128, 0)
    (tmp_path / "test.html").write_text(FRAME_PAGE)
    result = run_page(tmp_path, "test.html")
    assert "red" in result["text"]
    (expected,) = Predictor(tmp_path / "best.pt", "cpu", score_threshold=0.001)([tmp_path / "image.png"])
    rows = result["detections"]
    assert len(rows) == len(expected) > 0
    scores = torch.tensor([row["score"] for row in rows])
    torch.testing.assert_close(scores, expected.scores, atol=1e-3, rtol=0)
    nearest = [
        min(
            (np.abs(np.array(row["box"]) - box).max() for row in rows if row["label"] == label),
            default=np.inf,
        )
        for box, label in zip(expected.boxes.numpy(), expected.labels.tolist(), strict=True)
    ]
    assert np.mean(np.array(nearest) < 1) > 0.95
