"""What an exported file says about itself in words and numbers that other programs show to people.

Programs that need it read the JSON text of `effdet/weights/exported.py`, which holds everything.
"""

from __future__ import annotations

import json

from effdet.models import EfficientDetSpec
from effdet.types import Face
from effdet.version import __version__
from effdet.weights.exported import KEY, ExportCard

_OUTPUTS: dict[Face, str] = {
    "detections": "boxes xyxy in pixels of the input, scores, labels, counts; rows after the count are 0",
    "raw": "class_logits of every anchor, boxes xyxy in pixels of the input; no NMS",
    "logits": "logits of the classes; probabilities are their softmax",
    "features": "features at strides 8, 16 and 32",
}


def metadata_of(export: ExportCard) -> dict[str, str]:
    """Texts by key: the JSON text of the whole card under `KEY`, and plain ones."""
    card, spec = export.model, export.model.spec
    backbone = spec.backbone
    height, width = export.image_size
    texts = {
        KEY: export.to_json(),
        "description": f"{spec.name}, exported by efficientdet-torch {__version__}",
        "names": json.dumps(card.class_names, ensure_ascii=False),
        "category_ids": json.dumps(card.category_ids),
        "image_size": f"{height} x {width} (height x width)",
        "input": f"uint8 RGB [batch, height, width, {spec.in_channels}], 0 to 255",
        "normalization": f"inside the model: mean {list(backbone.mean)}, standard deviation {list(backbone.std)}",
        "outputs": _OUTPUTS.get(export.face, export.face),
    }
    if isinstance(spec, EfficientDetSpec):
        padded = f"resized to fit with the aspect kept, at the top left, padded with RGB {list(spec.fill_color)}"
        texts["letterbox"] = "stretched to the input, aspect not kept" if spec.letterbox == "stretch" else padded
        texts["resampling"] = f"bilinear, {'with' if spec.antialias else 'without'} antialiasing"
    if export.postprocess is not None:
        options = export.postprocess
        texts["score_threshold"] = str(options.score_threshold)
        texts["nms"] = f"{options.nms}, IoU threshold {options.iou_threshold}, at most {options.max_detections}"
    return texts
