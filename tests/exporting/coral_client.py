"""A client written from the published conventions of Coral's pycoral and of Frigate, independent of this package.

pycoral's `common.set_input` copies the pixels into input 0, and `detect.get_objects` reads outputs 0 to 3: boxes as
(ymin, xmin, ymax, xmax) in 0..1, class ids, scores and their count. Frigate reads the same, up to 20 results.
"""

import numpy as np
from ai_edge_litert.interpreter import Interpreter

FRIGATE_THRESHOLD, FRIGATE_RESULTS = 0.4, 20


def make_interpreter(path, threads=1):
    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


def input_size(interpreter):
    """(width, height), as pycoral gives it."""
    _, height, width, _ = interpreter.get_input_details()[0]["shape"]
    return int(width), int(height)


def set_input(interpreter, image):
    details = interpreter.get_input_details()[0]
    assert details["dtype"] == np.uint8, "pycoral copies uint8 pixels"
    interpreter.tensor(details["index"])()[0][:, :] = image


def get_objects(interpreter, score_threshold=0.0):
    """(class id, score, (xmin, ymin, xmax, ymax) in whole pixels of the input) of each object."""
    boxes, classes, scores, count = (
        interpreter.get_tensor(details["index"])[0] for details in interpreter.get_output_details()
    )
    sides = np.array(input_size(interpreter) * 2)
    return [
        (int(classes[i]), float(scores[i]), tuple((boxes[i][[1, 0, 3, 2]] * sides).astype(int)))
        for i in range(int(count))
        if scores[i] >= score_threshold
    ]


def detect_raw(interpreter, image):
    """Frigate's rows [20, 6]: class id, score, ymin, xmin, ymax, xmax; 0 where there is no object."""
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
    interpreter.invoke()
    outputs = interpreter.get_output_details()
    boxes, classes, scores = (interpreter.tensor(outputs[number]["index"])()[0] for number in range(3))
    count = int(interpreter.tensor(outputs[3]["index"])()[0])
    rows = np.zeros((FRIGATE_RESULTS, 6), np.float32)
    for i in range(min(count, FRIGATE_RESULTS)):
        if scores[i] < FRIGATE_THRESHOLD:
            break
        rows[i] = [classes[i], scores[i], *boxes[i]]
    return rows
