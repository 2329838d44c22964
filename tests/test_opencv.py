import subprocess
import sys

import numpy as np
import pytest

from effdet.opencv import cv2, loading_error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ImportError("libGL.so.1: cannot open shared object file: No such file or directory"),
            "OpenCV cannot be loaded (libGL.so.1 is missing); pip uninstall opencv-python && pip install "
            "opencv-python-headless, or install the system package libgl1",
        ),
        (
            ImportError("libgthread-2.0.so.0: cannot open shared object file: No such file or directory"),
            "OpenCV cannot be loaded (libgthread-2.0.so.0 is missing); pip uninstall opencv-python && pip install "
            "opencv-python-headless, or install the system package libglib2.0-0",
        ),
        (
            ModuleNotFoundError("No module named 'cv2'", name="cv2"),
            "OpenCV is not installed; pip install opencv-python, or opencv-python-headless on a server",
        ),
        (
            ImportError("numpy.core.multiarray failed to import"),
            "OpenCV cannot be loaded: it was built for another version of NumPy (numpy.core.multiarray failed to "
            "import); pip install --upgrade opencv-python numpy",
        ),
    ],
)
def test_the_error_says_what_to_install(error, sentence):
    assert str(loading_error(error)) == sentence


def test_a_broken_opencv_is_one_sentence_at_every_attempt(tmp_path):
    image = cv2.imencode(".bmp", np.zeros((2, 2, 3), np.uint8))[1].tobytes()
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from effdet.data.images import decode_image
from effdet.errors import EffdetError
for _ in range(2):
    try:
        decode_image({image!r}, "a.bmp")
    except EffdetError as error:
        print(error)
"""
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 2
    assert all("opencv-python-headless" in line for line in lines)


def test_the_module_is_opencv():
    assert cv2.imdecode
