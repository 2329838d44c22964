from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from effdet.config import make_config
from effdet.diagnosis.anchors import candidates as anchor_candidates
from effdet.diagnosis.anchors.candidates import Sample
from effdet.diagnosis.anchors.coverage import analyze, objects_of
from effdet.diagnosis.anchors.suggestion import suggest, unpadded_size
from effdet.models import ModelOptions, make_spec
from effdet.models.analysis import multiply_adds
from effdet.weights.create import options_of

from .anchor_tables import draw_table


def spec_of(**options):
    return make_spec(ModelOptions("efficientdet_lite0", **options))


def draw(width, height, other=100, count=80, seed=0, **options):
    """Objects of about the given width and height, and as many of another class that are squares of another side."""
    rng = np.random.default_rng(seed)
    varied = np.exp(rng.normal(0, 0.1, (2 * count, 1)))
    sides = np.concatenate([np.tile([[width, height]], (count, 1)), np.full((count, 2), other)]) * varied
    return objects_of(draw_table(sides, np.arange(2 * count) // count, **options))


@cache
def suggested(width, height, other=100, image_size=(192, 256)):
    """The objects of `draw`, a detector of an image size, and what is suggested for them."""
    objects, spec = draw(width, height, other), spec_of(image_size=image_size)
    return objects, spec, suggest(objects, spec)


def test_a_smaller_scale_is_suggested_for_small_objects():
    objects, _, suggestion = suggested(43, 43, 43)
    assert set(suggestion.changes) == {"anchor_scale"}
    assert 1.2 < suggestion.changes["anchor_scale"] < 2.5
    assert suggestion.together.multiply_adds == 1
    assert suggestion.together.class_mean > suggestion.present.class_mean + 0.1
    assert suggestion.reason == ""
    # The promise is what the whole analysis counts with the suggestion.
    promised = analyze(objects, suggestion.together.spec)
    assert promised["recall_ceiling"] == pytest.approx(suggestion.together.recall_ceiling)


def test_no_class_loses_many_positives():
    objects, spec, suggestion = suggested(43, 43)
    before, after = (analyze(objects, each)["classes"] for each in (spec, suggestion.together.spec))
    for row, new in zip(before[:2], after[:2], strict=True):
        assert new["positives"] >= 0.8 * row["positives"]
    smaller = replace(spec, anchor_scale=2.1)  # reaches more of the small objects and trains the others less
    assert analyze(objects, smaller)["classes"][1]["positives"] < 0.6 * before[1]["positives"]


def test_other_aspects_are_suggested_for_tall_objects_and_their_number_stays():
    _, _, suggestion = suggested(30, 200, image_size=(480, 640))
    assert set(suggestion.changes) == {"anchor_aspects"}
    aspects = suggestion.changes["anchor_aspects"]
    assert len(aspects) == 3
    assert min(width / height for width, height in aspects) < 0.3
    assert suggestion.together.class_mean > 0.95


def test_a_larger_input_is_suggested_where_other_anchors_are_not_enough():
    suggestion = suggest(draw(28, 28), spec_of(image_size=(192, 256)))
    height, width = suggestion.changes["image_size"]
    assert height > 192
    assert width > 256
    assert suggestion.together.multiply_adds > 1.3


def test_anchors_that_fit_are_kept():
    spec = spec_of(image_size=(480, 640))
    suggestion = suggest(draw(80, 60), spec)
    assert suggestion.changes == {}
    assert suggestion.together.spec == spec
    assert "other anchors add less than 10 points" in suggestion.reason


@pytest.mark.parametrize("sides", [(20, 20), (3, 400)])
def test_one_object_is_too_few_to_suggest_from(sides):
    objects = objects_of(draw_table([sides], [0], images=1))
    suggestion = suggest(objects, spec_of(image_size=(640, 896)))  # larger ones are not searched
    assert suggestion.changes == {}
    assert suggestion.reason.startswith("1 object in the training split; at least 50 are needed")


def test_padding_that_no_image_needs_is_cut_at_the_same_scale():
    spec = spec_of(image_size=(512, 512))
    objects = draw(80, 60)
    suggestion = suggest(objects, spec)
    assert suggestion.changes == {"image_size": [384, 512]}
    assert suggestion.together.multiply_adds == pytest.approx(0.75, abs=0.01)
    np.testing.assert_array_equal(objects.at_input((384, 512), "pad"), objects.at_input((512, 512), "pad"))
    assert suggest(objects, spec, cut_padding=False).changes == {}
    assert unpadded_size(objects, spec_of(image_size=(512, 512), letterbox="stretch")) is None


def test_an_input_is_not_made_larger_than_the_images_need():
    suggestion = suggest(draw(8, 8, size=(120, 160)), spec_of(image_size=(160, 192)))
    assert "image_size" not in suggestion.changes


def test_costs_are_the_multiply_adds_of_the_network():
    _, spec, suggestion = suggested(16, 16)
    (larger,) = [each for each in suggestion.alone if each.spec.image_size != (192, 256)]
    counts = [multiply_adds(each.build(1), each.image_size) for each in (spec, larger.spec)]
    assert larger.multiply_adds == pytest.approx(counts[1] / counts[0])


def test_every_suggestion_is_a_recipe_of_the_same_model():
    for _, spec, suggestion in (suggested(43, 43), suggested(16, 16), suggested(30, 200, image_size=(480, 640))):
        model = {"name": spec.name, "image_size": list(spec.image_size), **suggestion.changes}
        assert make_spec(options_of(make_config({"model": model}).model)) == suggestion.together.spec


def test_other_numbers_of_aspects_are_searched_too():
    one = suggest(draw(30, 200), spec_of(image_size=(480, 640), anchor_aspects=((1.0, 1.0),)))
    assert len(one.together.spec.anchor_aspects) == 1
    many = suggest(draw(43, 43, 43), spec_of(image_size=(192, 256), anchor_aspects=((1.0, 1.0),) * 14))
    assert set(many.changes) == {"anchor_scale"}


def test_a_sample_has_objects_of_every_class_and_counts_them_as_all(monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.array([0] * 4000 + [1] * 200 + [2] * 3)
    sides = np.exp(rng.uniform(np.log(10), np.log(200), (len(labels), 2)))
    objects = objects_of(draw_table(sides, labels))
    spec = spec_of(image_size=(192, 256))
    whole = Sample(objects).candidate(spec)
    monkeypatch.setattr(anchor_candidates, "MOST_OBJECTS", 1500)
    sample = Sample(objects)
    assert np.bincount(sample.objects.labels).tolist() == [500, 200, 3]
    assert sample.weights.sum() == pytest.approx(1)
    assert sample.class_weights.sum() == pytest.approx(1)
    assert sample.class_weights[sample.objects.labels == 2].sum() == 0  # fewer than ten objects
    sampled = sample.candidate(spec)
    assert sampled.recall_ceiling == pytest.approx(whole.recall_ceiling, abs=0.04)
    assert sampled.class_mean == pytest.approx(whole.class_mean, abs=0.04)
