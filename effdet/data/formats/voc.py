"""Reader of Pascal VOC annotations: one XML file per image, and a list of the images of a split.

Boxes are used as written: VOC's own tools count pixels from 1, most others from 0, and the files do not say which. The
layouts are in `voc_layout.py`, the content of a single file is in `voc_xml.py`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from effdet.data.annotations import Annotations
from effdet.data.formats.annotation_files import read_text
from effdet.data.formats.classes import ordered_names
from effdet.data.formats.listing import Names, files_below, without_suffix
from effdet.data.formats.split_files import SplitFiles
from effdet.data.formats.table import LISTED_TWICE, build_table
from effdet.data.formats.voc_layout import find_voc as find_voc
from effdet.data.formats.voc_xml import POLYGON, VocFile, read_voc_file
from effdet.data.images import IMAGE_SUFFIXES, is_image_name
from effdet.data.label_map import LabelMap
from effdet.errors import DataError

# Causes of repairs, besides those in `voc_xml.py`.
NO_XML = "images without an XML file left out"
NO_IMAGE = "XML files without an image left out"
OTHER_NAME = "XML files that name another image than their own name does, which is used"
OTHER_FOLDER = "images matched by file name alone, in another folder than named"
NOT_THERE = "listed images that do not exist left out"
OTHERS_IMAGE = "XML files that name the image of another XML file left out"
_SUFFIXES = (".xml", *IMAGE_SUFFIXES)


def read_voc(files: SplitFiles) -> Annotations:
    """Table of the images of a list, or of a folder of XML files and its sub-folders.

    Classes are the names in the files, sorted; category ids are 1..K. Image ids are the names of the XML files without
    suffix, relative to their folder. The image of an XML file has the same name; otherwise it is the one that the file
    names.

    Args:
        files: `images` is the folder of the images, `annotations` that of the XML files; `file_list` has the name of an
            image in each line, with or without folder and suffix; a second column is ignored.

    Raises:
        DataError: a file is missing or broken, there are no images, or it is unclear which image a file is of.
    """
    repairs: dict[str, list[str]] = defaultdict(list)
    source = files.file_list or files.annotations
    xml_names = [name for name in files_below(files.annotations) if name.lower().endswith(".xml")]
    if not xml_names:
        raise DataError(f"{files.annotations}: no XML files; expected one for each image")
    images = Names(name for name in files_below(files.images) if is_image_name(name))
    chosen = _listed(files.file_list, Names(xml_names, _SUFFIXES), images, repairs) if files.file_list else xml_names
    contents = _read_all(files.annotations, chosen)
    image_of = _match(source, contents, images, repairs)
    if not image_of:
        raise DataError(_no_images(files, source, contents))
    if files.file_list is None:
        used = set(image_of.values())
        repairs[NO_XML] += [name for name in files_below(files.images) if is_image_name(name) and name not in used]
    used_contents = [contents[name] for name in image_of]
    for name in image_of:
        for fault in contents[name].faults:
            repairs[fault].append(name)
    objects = [item for content in used_contents for item in content.objects]
    left_out = [fault for content in used_contents for fault in content.faults if fault != POLYGON]
    if left_out and not objects:
        raise DataError(f"{source}: no object has a name and a box: {len(left_out)} {left_out[0]}; check the files")
    names = ordered_names(item.name for item in objects)
    label_of = {name: label for label, name in enumerate(names)}
    return build_table(
        source=source,
        image_folder=files.images,
        file_names=list(image_of.values()),
        image_ids=np.array([name[:-4] for name in image_of], np.str_),
        sizes=np.array([content.size for content in used_contents], np.int32).reshape(-1, 2),
        image_of_box=np.repeat(np.arange(len(used_contents)), [len(content.objects) for content in used_contents]),
        boxes=np.array([item.box for item in objects], np.float64).reshape(-1, 4),
        labels=np.array([label_of[item.name] for item in objects], np.int64),
        label_map=LabelMap(names, tuple(range(1, len(names) + 1))),
        difficult=np.array([item.difficult for item in objects], np.bool_),
        repairs=repairs,
    )


def _read_all(folder: Path, names: Sequence[str]) -> dict[str, VocFile]:
    """Content of every XML file; all that are broken are named in one error."""
    contents, errors = {}, []
    for name in names:
        try:
            contents[name] = read_voc_file(folder / name)
        except DataError as error:
            errors.append((name, str(error)))
    if errors:
        others = ", ".join(name for name, _ in errors[1:4]) + (", ..." if len(errors) > 4 else "")
        more = f" ({len(errors) - 1} more cannot be read: {others})" if len(errors) > 1 else ""
        raise DataError(errors[0][1] + more)
    return contents


def _match(
    source: Path, contents: Mapping[str, VocFile], images: Names, repairs: dict[str, list[str]]
) -> dict[str, str]:
    """The image of every XML file, in their order, without the files that have none."""
    image_of: dict[str, str] = {}
    for name, content in contents.items():
        own = images.exact(without_suffix(name, (".xml",)))
        if own:
            written = PurePosixPath(content.file_name.replace("\\", "/")).name
            image_of[name] = next((image for image in own if PurePosixPath(image).name == written), own[0])
            if written and not set(images.exact(written)) <= set(own):
                repairs[OTHER_NAME].append(name)
    xml_of = {image: name for name, image in image_of.items()}
    certain = set(xml_of)
    for name, content in contents.items():
        if name in image_of:
            continue
        image = next(filter(None, (_only(images, spelling) for spelling in _spellings(name, content))), None)
        if image is None:
            repairs[NO_IMAGE].append(name)
        elif image in certain:
            repairs[OTHERS_IMAGE].append(name)
        elif image in xml_of:
            raise DataError(
                f"{source}: {xml_of[image]} and {name} are both of the image {image}; name each XML file like its "
                f"image, or remove one"
            )
        else:
            image_of[name], xml_of[image] = image, name
            if not any(images.is_end(image, spelling) for spelling in _spellings(name, content)):
                repairs[OTHER_FOLDER].append(image)
    return {name: image_of[name] for name in contents if name in image_of}


def _spellings(name: str, content: VocFile) -> Iterator[str]:
    """Names under which the image of an XML file may be known, the likeliest first."""
    folder = name.rpartition("/")[0]
    if content.file_name:
        yield from (f"{folder}/{content.file_name}", content.image_path, content.file_name)
    yield without_suffix(name, (".xml",))


def _only(names: Names, name: str) -> str | None:
    """The one file that a name stands for, None if there is none or several."""
    if not name:
        return None
    found = names.exact(name) or names.nearest(name)
    return found[0] if len(found) == 1 else None


def _listed(path: Path, xml: Names, images: Names, repairs: dict[str, list[str]]) -> list[str]:
    """The XML files of the images of a list, each once."""
    line_of: dict[str, str] = {}
    for line in _read_lines(path):
        spellings = _line_spellings(line)
        same = next(filter(None, map(xml.exact, spellings)), [])
        found = same[:1] or next(filter(None, map(xml.nearest, spellings)), [])
        if len(found) > 1:
            raise DataError(f"{path}: '{line}' may be {found[0]} or {found[1]}; write the name with its folder")
        if not found:
            exists = any(images.exact(spelling) or images.nearest(spelling) for spelling in spellings)
            repairs[NO_XML if exists else NOT_THERE].append(spellings[-1])
        elif found[0] not in line_of:
            line_of[found[0]] = line
        elif same or line == line_of[found[0]]:
            repairs[LISTED_TWICE].append(found[0])
        else:
            raise DataError(
                f"{path}: '{line_of[found[0]]}' and '{line}' would both be {found[0]}; add the missing file, "
                f"or remove one of the lines"
            )
    if not line_of:
        examples = [*repairs[NO_XML], *repairs[NOT_THERE]]
        raise DataError(f"{path}: no image of the list has an XML file, such as {examples[0]}; check the folders")
    return list(line_of)


def _read_lines(path: Path) -> list[str]:
    lines = list(filter(None, map(str.strip, read_text(path, "list of images").splitlines())))
    if not lines:
        raise DataError(f"{path}: the list is empty; expected the name of an image in each line")
    return lines


def _line_spellings(line: str) -> list[str]:
    """What may be the name of the image in a line, the likeliest first: the name may have blanks, quotes or a label."""
    quoted = re.match(r"([\"'])(.+?)\1", line)
    if quoted:
        return [quoted[2]]
    return list(dict.fromkeys([line, re.sub(r"\s+-?[01]$", "", line), line.split()[0]]))


def _no_images(files: SplitFiles, source: Path, contents: Mapping[str, VocFile]) -> str:
    name, content = next(iter(contents.items()))
    return (
        f"{source}: none of {len(contents)} XML files has its image in {files.images}; {name} is of "
        f"{content.file_name or 'an image of that name'}, set data.train.images or data.val.images to its folder"
    )
