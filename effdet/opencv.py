"""OpenCV, loaded when a function first needs it: `from effdet.opencv import cv2` instead of `import cv2`.

Nothing else lives here. If OpenCV cannot be loaded, the error says what to install.
"""

from __future__ import annotations

import re

from effdet.errors import EffdetError

__all__ = ["cv2"]

HEADLESS = "pip uninstall opencv-python && pip install opencv-python-headless"


def loading_error(error: Exception) -> EffdetError:
    """What to do when OpenCV cannot be loaded, by the error of its import."""
    library = re.search(r"(lib[\w.+-]+\.so[\w.]*)", str(error))
    if library:
        package = "libgl1" if library[1].startswith("libGL.") else "libglib2.0-0" if "thread" in library[1] else None
        install = f", or install the system package {package}" if package else ""
        return EffdetError(f"OpenCV cannot be loaded ({library[1]} is missing); {HEADLESS}{install}")
    if isinstance(error, ModuleNotFoundError) and error.name == "cv2":
        return EffdetError("OpenCV is not installed; pip install opencv-python, or opencv-python-headless on a server")
    if re.search(r"numpy|_ARRAY_API", str(error)):
        return EffdetError(
            f"OpenCV cannot be loaded: it was built for another version of NumPy ({error}); "
            "pip install --upgrade opencv-python numpy"
        )
    return EffdetError(f"OpenCV cannot be loaded ({error}); pip install --force-reinstall opencv-python")


try:
    import cv2
except (ImportError, AttributeError) as failure:
    raise loading_error(failure) from failure
