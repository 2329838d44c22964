"""The embedded demo data set: cluttered scenes of simple shapes, drawn from a seed, for trying the tools offline.

Drawing, the COCO folder and the video are here; the folder is read like any other by `data/formats`.
"""

from effdet.data.synthetic.files import write_data_set
from effdet.data.synthetic.scenes import Scene, draw_scene
from effdet.data.synthetic.shapes import CLASS_NAMES
from effdet.data.synthetic.video import write_video

__all__ = ["CLASS_NAMES", "Scene", "draw_scene", "write_data_set", "write_video"]
