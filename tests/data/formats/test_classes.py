from pathlib import Path

import numpy as np
import pytest

from effdet.data.annotations import Annotations
from effdet.data.formats.classes import clean_name, follow_classes, ordered_names
from effdet.data.label_map import LabelMap
from effdet.data.labels import ImageLabels
from effdet.errors import DataError

NAMES = ("ant", "bee", "cow")


def boxes(labels, names=NAMES, ids=None):
    """A table of one image with an object of each label."""
    count = len(labels)
    return Annotations(
        source=Path("boxes.json"),
        image_folder=Path(),
        file_names=np.array(["a.jpg"]),
        image_ids=np.array([1]),
        sizes=np.array([[40, 60]], np.int32),
        offsets=np.array([0, count]),
        boxes=np.arange(4 * count, dtype=np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        label_map=LabelMap(names, tuple(ids or range(1, len(names) + 1))),
        crowd=np.zeros(count, np.bool_),
        areas=np.arange(count, dtype=np.float64),
        difficult=np.zeros(count, np.bool_),
    )


def images(labels, names=NAMES):
    """A table with an image of each label."""
    return ImageLabels(
        source=Path("images.csv"),
        image_folder=Path(),
        file_names=np.array([f"{row}.jpg" for row in range(len(labels))]),
        labels=np.array(labels, np.int64),
        label_map=LabelMap(names, tuple(range(len(names)))),
    )


def outcome(table):
    """Names of the labels, ids of the classes, and the class name of every object or image."""
    label_map = table.label_map
    return label_map.names, label_map.category_ids, [label_map.names[label] for label in table.labels]


def test_a_table_without_wishes_stays_the_same():
    for table in (boxes([0, 2, 1]), images([0, 2, 1])):
        assert follow_classes(table) is table


@pytest.mark.parametrize("make", [boxes, images])
def test_classes_are_selected_and_ordered(make):
    table = follow_classes(make([0, 2, 1, 0]), classes=["cow", "ant"])
    assert table.label_map.names == ("cow", "ant")
    assert table.labels.tolist() == [1, 0, 1]
    what = "objects" if make is boxes else "images"
    name = "boxes.json" if make is boxes else "images.csv"
    assert table.notes() == [f"{name}: {what} of classes that are not in data.classes left out: 1 (bee)"]


def test_the_objects_of_selected_classes_keep_their_boxes_and_their_image_stays():
    table = follow_classes(boxes([1, 0, 1]), classes=["ant"])
    assert (table.offsets.tolist(), table.boxes.tolist(), table.areas.tolist()) == ([0, 1], [[4, 5, 6, 7]], [1])
    nothing = follow_classes(boxes([1, 1]), classes=["ant"])
    assert (len(nothing), nothing.offsets.tolist()) == (1, [0, 0])


def test_images_of_other_classes_are_left_out():
    table = follow_classes(images([0, 2, 1]), classes=["cow", "bee"])
    assert table.file_names.tolist() == ["1.jpg", "2.jpg"]


def test_selected_classes_keep_the_category_ids_of_the_data_set():
    table = follow_classes(boxes([0, 1, 2], ids=(5, 7, 90)), classes=["cow", "ant"])
    assert outcome(table) == (("cow", "ant"), (90, 5), ["ant", "cow"])


def test_a_class_without_objects_may_be_selected_but_not_only_such():
    table = follow_classes(boxes([0]), classes=["ant", "wasp"])
    assert table.label_map.names == ("ant", "wasp")
    with pytest.raises(DataError, match=r"^boxes\.json: data\.classes: there is no class 'aunt'; did you mean 'ant'\?"):
        follow_classes(boxes([0]), classes=["aunt"])
    with pytest.raises(DataError, match=r"there is no class 'zebra'; the classes are ant, bee, cow$"):
        follow_classes(boxes([0]), classes=["zebra", "yak"])


def test_classes_are_renamed_and_merged():
    table = follow_classes(boxes([0, 1, 2], ids=(5, 7, 90)), rename={"cow": "bee", "ant": "wasp"})
    assert outcome(table) == (("wasp", "bee"), (5, 7), ["wasp", "bee", "bee"])
    assert table.notes() == []


def test_classes_may_be_exchanged_by_renaming():
    assert outcome(follow_classes(boxes([0, 1]), rename={"ant": "bee", "bee": "ant"}))[2] == ["bee", "ant"]


def test_renamed_classes_are_selected_by_their_new_names():
    table = follow_classes(boxes([0, 1, 2]), classes=["insect"], rename={"ant": "insect", "bee": "insect"})
    assert outcome(table) == (("insect",), (1,), ["insect", "insect"])


def test_renaming_what_a_split_lacks_is_fine_where_the_new_name_exists():
    assert follow_classes(boxes([0]), rename={"wasp": "bee"}).label_map.names == NAMES
    with pytest.raises(DataError, match=r"data\.rename: there is no class 'beee'; did you mean 'bee'\?"):
        follow_classes(boxes([0]), rename={"beee": "wasp"})


@pytest.mark.parametrize(
    ("classes", "message"), [(["ant", " ant"], "names 'ant' twice"), ([], "data.classes is empty")]
)
def test_classes_that_contradict_themselves_are_refused(classes, message):
    with pytest.raises(DataError, match=message):
        follow_classes(boxes([0]), classes=classes)


@pytest.mark.parametrize(
    ("in_file", "known"),
    [
        ("cafe\u0301", "caf\u00e9"),
        ("caf\u00e9", "cafe\u0301"),
        (" cow", "cow\t"),
        ("\u212bngstr\u00f6m", "\u00c5ngstro\u0308m"),
    ],
)
def test_unicode_composition_and_blanks_make_no_difference(in_file, known):
    model = LabelMap((known, "bee"), (1, 2))
    for table in (
        follow_classes(boxes([0, 1], (clean_name(in_file), "bee")), classes=[known]),
        follow_classes(boxes([0, 1], (in_file, "bee")), label_map=model),
        follow_classes(boxes([0, 1], (in_file, "bee")), rename={known: "wasp"}),
    ):
        assert table.labels.tolist()[0] == 0
        assert table.repairs.get("classes matched in another case") is None


def test_another_case_is_matched_and_counted():
    table = follow_classes(boxes([0, 2]), label_map=LabelMap(("Cow", "ANT", "bee"), (1, 2, 3)))
    assert outcome(table) == (("Cow", "ANT", "bee"), (1, 2, 3), ["ANT", "Cow"])
    assert table.notes() == ["boxes.json: classes matched in another case: 2 ('ant' as 'ANT', 'cow' as 'Cow')"]
    assert follow_classes(boxes([0, 2]), classes=["ANT"]).label_map == LabelMap(("ANT",), (1,))


def test_classes_in_another_case_keep_their_own_ids():
    table = follow_classes(boxes([0, 2], ids=(5, 7, 90)), label_map=LabelMap(("Cow", "ANT"), (1, 2)), own_ids=True)
    assert table.label_map == LabelMap(("Cow", "ANT"), (90, 5))


def test_a_case_that_may_mean_two_classes_is_not_matched():
    with pytest.raises(DataError, match="the class 'ant' is not among the 2 classes"):
        follow_classes(boxes([0]), label_map=LabelMap(("Ant", "ANT"), (1, 2)))
    assert follow_classes(boxes([0]), label_map=LabelMap(("Ant", "ant"), (1, 2))).labels.tolist() == [1]


def test_a_table_follows_the_labels_of_a_model_by_name():
    model = LabelMap(("cow", "wasp", "ant"), (4, 5, 6))
    assert outcome(follow_classes(boxes([0, 2]), label_map=model)) == (model.names, (4, 5, 6), ["ant", "cow"])
    own = follow_classes(boxes([0, 2], ids=(7, 5, 3)), label_map=model, own_ids=True).label_map
    assert own == LabelMap(model.names, (3, 8, 7))  # 5 is another class there


def test_merged_classes_have_one_id_with_and_without_a_label_map():
    table = boxes([0, 1, 2], ids=(5, 7, 90))
    train = follow_classes(table, rename={"cow": "ant"}, own_ids=True)
    val = follow_classes(table, rename={"cow": "ant"}, label_map=train.label_map, own_ids=True)
    assert train.label_map == val.label_map == LabelMap(("ant", "bee"), (5, 7))


@pytest.mark.parametrize("make", [boxes, images])
def test_unknown_classes_are_refused_with_the_nearest_or_with_all(make):
    known = LabelMap(("ants", "cow"), (1, 2))
    with pytest.raises(DataError) as error:
        follow_classes(make([0, 1, 2]), label_map=known)
    assert str(error.value).partition(": ")[2] == (
        "the classes 'ant', 'bee' are not among the 2 classes of the training split or of the model; rename with "
        "data.rename, or leave out with data.classes; did you mean 'ants'?"
    )
    with pytest.raises(DataError, match=r"the class 'bee' is not among the 1 class of .*; the classes are zebra$"):
        follow_classes(make([1]), label_map=LabelMap(("zebra",), (1,)))


def test_an_unknown_class_matters_only_where_it_has_objects():
    known = LabelMap(("ant", "cow"), (1, 2))
    assert follow_classes(boxes([0, 2]), label_map=known).labels.tolist() == [0, 1]


def test_a_model_and_a_selection_leave_out_what_is_in_neither():
    known = LabelMap(("ant", "cow"), (1, 2))
    table = follow_classes(boxes([0, 1, 2]), classes=["ant", "cow"], label_map=known)
    assert (table.labels.tolist(), sum(table.repairs.values())) == ([0, 1], 1)


def test_a_classifier_needs_two_classes():
    for settings in ({"classes": ["ant"]}, {"rename": {"ant": "cow", "bee": "cow"}}):
        with pytest.raises(DataError, match=r"all images are of the class '.*'; a classifier needs at"):
            follow_classes(images([0, 2]), **settings)
    assert follow_classes(boxes([0, 1]), classes=["ant"]).label_map.names == ("ant",)


def test_folders_named_by_wordnet_are_the_classes_of_an_imagenet_model():
    folders = ("n01440764", "n01443537")
    model = LabelMap(("tench", "goldfish"), (0, 1))
    assert follow_classes(images([0, 1, 1], folders), label_map=model).labels.tolist() == [0, 1, 1]
    with pytest.raises(DataError, match="'n01440764', 'n01443537' are not among the 3 classes"):
        follow_classes(images([0, 1], folders), label_map=LabelMap(("tench", "goldfish", "shark"), (0, 1, 2)))


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["b", "a", "b"], ("a", "b")),
        (["10", "9", "1"], ("1", "9", "10")),
        (["10", "9", "a"], ("10", "9", "a")),
        (["01", "1", "0"], ("0", "01", "1")),
        ([], ()),
    ],
)
def test_names_are_ordered_as_numbers_if_all_are_numbers(names, ordered):
    assert ordered_names(names) == ordered


def test_names_are_cleaned():
    assert clean_name(" e\u0301 \n") == "\u00e9"
    assert clean_name(7) == "7"


def test_names_of_thousands_of_digits_are_sorted_as_text():
    long = "9" * 5000
    assert ordered_names(["10", "9", long]) == ("10", "9", long)
    assert ordered_names(["10", "9"]) == ("9", "10")
