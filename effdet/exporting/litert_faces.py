"""The operators that are added behind a converted detector: decoding of boxes, and NMS as Coral and Frigate expect it.

The network's own operators come from the conversion in `litert_file.py`. What the faces mean is at `effdet.types.Face`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from effdet.boxes import LARGEST_GROWTH
from effdet.exporting.litert_flatbuffer import LiteRTGraph
from effdet.types import PostprocessOptions

POSTPROCESS = "TFLite_Detection_PostProcess"
CORAL_OUTPUTS = ("boxes", "classes", "scores", "count")  # the order that Coral's library and Frigate read by number


def add_decoding(graph: LiteRTGraph, deltas: int, anchors: NDArray[np.float32]) -> int:
    """Add operators that turn deltas [1, A, 4] of the order dx, dy, dw, dh into boxes; the tensor of the boxes.

    Args:
        graph: the converted network.
        deltas: number of the tensor.
        anchors: [A, 4] xyxy in pixels.

    Returns:
        Number of the tensor [1, A, 4] float32 xyxy in pixels.
    """
    schema, count = graph.schema, len(anchors)
    size = (anchors[:, 2:] - anchors[:, :2])[None]
    centre = ((anchors[:, 2:] + anchors[:, :2]) / 2)[None]

    def computed(name: str) -> int:
        return graph.add_tensor(f"decode/{name}", (1, count, 2), "float32")

    def constant(name: str, values: NDArray[np.generic]) -> int:
        return graph.add_constant(f"decode/{name}", np.ascontiguousarray(values))

    def add(kind: str, inputs: list[int], name: str, options: object = None) -> int:
        output = computed(name)
        graph.add_operator(kind, inputs, [output], options=options)
        return output

    shift, growth = computed("shift"), computed("growth")
    axis = constant("axis", np.array(2, np.int32))
    graph.add_operator("SPLIT", [axis, deltas], [shift, growth], options=schema.SplitOptionsT(numSplits=2))
    moved = add("MUL", [shift, constant("anchor_size", size)], "moved", schema.MulOptionsT())
    middle = add("ADD", [moved, constant("anchor_centre", centre)], "centre", schema.AddOptionsT())
    limit = constant("largest_growth", np.array(LARGEST_GROWTH, np.float32))
    limited = add("MINIMUM", [growth, limit], "limited", schema.MaximumMinimumOptionsT())
    factor = add("EXP", [limited], "factor", schema.ExpOptionsT())
    half = add("MUL", [factor, constant("half_anchor_size", size / 2)], "half", schema.MulOptionsT())
    corners = [
        add("SUB", [middle, half], "top_left", schema.SubOptionsT()),
        add("ADD", [middle, half], "bottom_right", schema.AddOptionsT()),
    ]
    boxes = graph.add_tensor("decode/boxes", (1, count, 4), "float32")
    graph.add_operator("CONCATENATION", corners, [boxes], options=schema.ConcatenationOptionsT(axis=2))
    return boxes


def add_coral_postprocess(
    graph: LiteRTGraph,
    class_logits: int,
    deltas: int,
    anchors: NDArray[np.float32],
    num_classes: int,
    options: PostprocessOptions,
) -> list[int]:
    """Add the sigmoid of the logits and the operator `TFLite_Detection_PostProcess`, which decodes and suppresses.

    NMS is the operator's "fast" one, over the boxes of all classes. Its "regular" NMS within classes loses a class in
    LiteRT 2.3 when an interpreter has fewer threads than classes, and more than one. Only the best class of an anchor
    counts, and the number of candidates has no limit.

    Args:
        graph: the converted network.
        class_logits: number of the tensor [1, A, K]; there is no background class.
        deltas: number of the tensor [1, A, 4] of the order dy, dx, dh, dw.
        anchors: [A, 4] as (y, x, height, width), centres and sides divided by the sides of the image.
        num_classes: number K of classes.
        options: thresholds and the most detections.

    Returns:
        Numbers of the tensors of `CORAL_OUTPUTS`: boxes [1, M, 4] as (ymin, xmin, ymax, xmax) divided by the sides of
        the image, classes [1, M] in 0..K-1, scores [1, M] and count [1], all float32.

    """
    from flatbuffers import flexbuffers

    most = options.max_detections
    custom = flexbuffers.Dumps(
        {
            "max_detections": most,
            "max_classes_per_detection": 1,
            "detections_per_class": most,
            "use_regular_nms": False,
            "nms_score_threshold": float(options.score_threshold),
            "nms_iou_threshold": float(options.iou_threshold),
            "num_classes": num_classes,
            **{f"{side}_scale": 1.0 for side in "yxhw"},
        }
    )
    scores = graph.add_tensor("class_scores", (1, len(anchors), num_classes), "float32")
    graph.add_operator("LOGISTIC", [class_logits], [scores])
    outputs = [
        graph.add_tensor(name, shape, "float32")
        for name, shape in zip(CORAL_OUTPUTS, ((1, most, 4), (1, most), (1, most), (1,)), strict=True)
    ]
    inputs = [deltas, scores, graph.add_constant("anchors", np.ascontiguousarray(anchors))]
    graph.add_operator(POSTPROCESS, inputs, outputs, custom=bytes(custom))
    return outputs


def normalized_anchors(anchors: NDArray[np.float32], image_size: tuple[int, int]) -> NDArray[np.float32]:
    """Anchors [A, 4] xyxy in pixels as (y, x, height, width), centres and sides divided by the sides of the image."""
    height, width = image_size
    corners = anchors / np.array([width, height, width, height], np.float32)
    centre, size = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    return np.concatenate([centre[:, ::-1], size[:, ::-1]], axis=1).astype(np.float32)
