import math
import subprocess
import sys

import pytest
import torch
import torchvision

from effdet.boxes import decode_boxes, pairwise_iou
from effdet.errors import NotFiniteError
from effdet.models.anchors import anchor_boxes
from effdet.postprocess import Candidates, classify, hard_nms, postprocess, rank_classes, soft_nms
from effdet.postprocess.candidates import best_candidates, best_pairs, group_size
from effdet.postprocess.nms import suppress_by_rounds
from effdet.postprocess.packed import pack_detections, unpack_detections
from effdet.structures import Outputs
from effdet.types import PostprocessOptions

SIZE = (96, 128)


def random_outputs(images=2, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    anchors = anchor_boxes(SIZE)
    logits = torch.randn(images, len(anchors), classes, generator=generator) * 1.5 - 2
    return Outputs(logits, torch.randn(images, len(anchors), 4, generator=generator) * 0.3, anchors)


def few_outputs(*scores):
    """One image, boxes far from each other, one class; a score each."""
    anchors = torch.tensor([[100.0 * k, 0, 100 * k + 50, 50] for k in range(len(scores))]).reshape(-1, 4)
    logits = torch.tensor(scores, dtype=torch.float64).logit().float()[None, :, None]
    return Outputs(logits, torch.zeros(1, len(scores), 4), anchors)


def random_candidates(count=400, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 150 - 20
    boxes = torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=generator) * 60], 1)
    scores = torch.rand(count, generator=generator).sort(descending=True).values
    return Candidates(boxes, scores, torch.randint(0, classes, (count,), generator=generator))


def overlap(first, second):
    return pairwise_iou(first[None].double(), second[None].double()).item()


def rows(detections):
    return [
        (*box, score, label)
        for box, score, label in zip(
            detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
        )
    ]


def assert_same(detections, expected):
    """Detections against (index of candidate, score) pairs."""
    candidates, picks = expected
    index = [pick for pick, _ in picks]
    assert detections.boxes.tolist() == candidates.boxes[index].tolist()
    assert detections.labels.tolist() == candidates.labels[index].tolist()
    assert detections.scores.tolist() == pytest.approx([score for _, score in picks], rel=1e-4)


# Candidates


def test_candidates_are_the_best_pairs_sorted_by_descending_score():
    outputs = random_outputs()
    for image, logits in enumerate(outputs.class_logits):
        boxes = decode_boxes(outputs.box_deltas[image], outputs.anchors)
        candidates = best_candidates(logits, logits.amax(1), boxes.__getitem__, 0.2, 50)
        scores = outputs.class_logits[image].sigmoid()
        pairs = [(scores[a, k].item(), a, k) for a in range(len(scores)) for k in range(3) if scores[a, k] >= 0.2]
        pairs = sorted(pairs, reverse=True)[:50]
        assert candidates.scores.tolist() == pytest.approx([score for score, _, _ in pairs])
        assert candidates.labels.tolist() == [label for _, _, label in pairs]
        anchor = [a for _, a, _ in pairs]
        torch.testing.assert_close(
            candidates.boxes, decode_boxes(outputs.box_deltas[image, anchor], outputs.anchors[anchor])
        )


def test_groups_have_a_size_that_divides_their_number_and_compares_fewer_values():
    assert group_size(90 * 5000, 5000) == 9  # 50,000 maxima and 45,000 values
    assert group_size(3 * 5000, 5000) == 1
    assert group_size(89 * 4999, 4999) == 1  # both are prime
    assert group_size(89 * 5000, 5000) == 10  # groups do not end where rows of classes do


@pytest.mark.parametrize("in_groups", [False, True])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("anchors", "classes", "count"),
    [(700, 90, 50), (700, 89, 48), (700, 41, 700), (40, 60, 200), (300, 1, 300), (9, 2, 18), (500, 3, 10), (1, 1, 1)],
)
def test_best_pairs_are_those_of_a_full_sort(anchors, classes, count, ties, in_groups):
    logits = torch.randn(3, anchors, classes, generator=torch.Generator().manual_seed(classes))
    logits = (logits * 2).round() if ties else logits
    expected = logits.flatten(1).sort(dim=1, descending=True).values[:, :count]
    values, anchor, label = best_pairs(logits, count, in_groups=in_groups)
    assert values.equal(expected)
    for image, pairs in enumerate(zip(anchor, label, strict=True)):
        assert logits[image][pairs].equal(values[image])
        assert len(set(zip(*(indices.tolist() for indices in pairs), strict=True))) == count
    unsorted, _, _ = best_pairs(logits, count, logits.amax(2), sort=False, in_groups=in_groups)
    assert unsorted.sort(dim=1, descending=True).values.equal(expected)


def test_an_anchor_may_give_detections_of_several_classes():
    outputs = few_outputs(0.9)
    two = Outputs(torch.tensor([[[2.0, 1.0]]]), outputs.box_deltas, outputs.anchors)
    detections = postprocess(two)[0]
    assert detections.labels.tolist() == [0, 1]
    assert detections.boxes[0].equal(detections.boxes[1])
    assert len(postprocess(two, PostprocessOptions(nms="agnostic"))[0]) == 1


@pytest.mark.parametrize("score", [0.5, 0.05, 0.001, 0.3])
def test_a_score_of_exactly_the_threshold_is_kept(score):
    outputs = few_outputs(score)
    assert len(postprocess(outputs, PostprocessOptions(score_threshold=score))[0]) == 1
    assert len(postprocess(outputs, PostprocessOptions(score_threshold=score + 1e-5))[0]) == 0


@pytest.mark.parametrize("nms", ["class", "agnostic", "soft"])
def test_thresholds_of_zero_and_one_keep_all_and_none(nms):
    outputs = few_outputs(0.9, 1e-6, 0.5)
    assert len(postprocess(outputs, PostprocessOptions(score_threshold=0.0, nms=nms))[0]) == 3
    assert len(postprocess(outputs, PostprocessOptions(score_threshold=1.0, nms=nms))[0]) == 0


def test_no_more_candidates_enter_than_allowed():
    detections = postprocess(few_outputs(0.9, 0.7, 0.8), PostprocessOptions(max_candidates=2))[0]
    assert detections.scores.tolist() == pytest.approx([0.9, 0.8])


def slow_postprocess(outputs, options):
    """Every (anchor, class) pair by itself, without shortcuts."""
    results = []
    for logits, deltas in zip(outputs.class_logits.float(), outputs.box_deltas, strict=True):
        num_classes = logits.shape[1]
        order = logits.flatten().argsort(descending=True, stable=True)[: options.max_candidates]
        order = order[logits.flatten()[order].double().sigmoid() >= options.score_threshold]
        boxes = decode_boxes(deltas, outputs.anchors)[order // num_classes]
        candidates = Candidates(boxes, logits.flatten()[order].sigmoid(), order % num_classes)
        if options.nms == "soft":
            kept = slow_soft_nms(candidates, options.soft_sigma, options.score_threshold, options.max_detections)
        else:
            kept = slow_nms(candidates, options.iou_threshold, options.max_detections, options.nms == "class")
        results.append(kept)
    return results


@pytest.mark.parametrize("nms", ["class", "agnostic", "soft"])
@pytest.mark.parametrize(
    ("classes", "threshold", "candidates", "most"),
    [(3, 0.001, 60, 100), (3, 0.2, 10000, 5), (1, 0.05, 50, 7), (1, 0.3, 150, 100), (3, 0.9, 20, 3)],
)
def test_a_batch_gives_what_a_loop_over_all_pairs_gives(nms, classes, threshold, candidates, most):
    outputs = random_outputs(2, classes)
    few = Outputs(outputs.class_logits[:, :200], outputs.box_deltas[:, :200], outputs.anchors[:200])
    options = PostprocessOptions(threshold, nms, max_candidates=candidates, max_detections=most)
    packed = unpack_detections(pack_detections(few, options))
    for own, static, expected in zip(postprocess(few, options), packed, slow_postprocess(few, options), strict=True):
        assert_same(own, expected)
        assert_same(static, expected)


def test_detections_of_equal_scores_do_not_depend_on_their_number():
    outputs = random_outputs(1)
    outputs.class_logits.fill_(-2)
    for options in (PostprocessOptions(), PostprocessOptions(max_candidates=70), PostprocessOptions(iou_threshold=0)):
        (detections,) = postprocess(outputs, options)
        assert set(detections.scores.tolist()) == {torch.tensor(-2.0).sigmoid().item()}
        for box in range(1, len(detections)):
            same = detections[:box].labels == detections.labels[box]
            iou = pairwise_iou(detections.boxes[box : box + 1], detections.boxes[:box][same])
            assert iou.le(options.iou_threshold + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_threshold_is_compared_in_float32(dtype):
    outputs = random_outputs()
    low = Outputs(outputs.class_logits.to(dtype), outputs.box_deltas.to(dtype), outputs.anchors)
    options = PostprocessOptions(score_threshold=0.3, max_detections=1000)
    for detections in (*postprocess(low, options), *unpack_detections(pack_detections(low, options))):
        assert detections.scores.min() >= 0.3


def test_logits_may_have_any_memory_layout():
    outputs = random_outputs()
    turned = Outputs(outputs.class_logits.mT.contiguous().mT, outputs.box_deltas.mT.contiguous().mT, outputs.anchors)
    for own, expected in zip(postprocess(turned), postprocess(outputs), strict=True):
        assert rows(own) == rows(expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("tensor", ["class_logits", "box_deltas"])
def test_nan_and_inf_are_an_error_that_names_the_image(value, tensor):
    outputs = random_outputs(3)
    getattr(outputs, tensor)[1, 7] = value
    for run in (postprocess, lambda own: unpack_detections(pack_detections(own, PostprocessOptions()))):
        with pytest.raises(NotFiniteError) as error:
            run(outputs)
        assert error.value.image == 1


def test_large_sums_in_float16_are_finite():
    outputs = random_outputs(1)
    low = Outputs(torch.full_like(outputs.class_logits, -9).half(), outputs.box_deltas.half() + 40, outputs.anchors)
    assert postprocess(low, PostprocessOptions(score_threshold=0.5))[0].scores.tolist() == []


# All kinds of NMS


@pytest.mark.parametrize("nms", ["class", "agnostic", "soft"])
def test_an_image_without_candidates_has_empty_detections(nms):
    outputs = random_outputs()
    outputs.class_logits[0] = -20
    nothing, something = postprocess(outputs, PostprocessOptions(nms=nms))
    assert (nothing.boxes.shape, nothing.scores.shape, nothing.labels.shape) == ((0, 4), (0,), (0,))
    assert (nothing.boxes.dtype, nothing.scores.dtype, nothing.labels.dtype) == (
        torch.float32,
        torch.float32,
        torch.int64,
    )
    assert len(something) == 100


@pytest.mark.parametrize("nms", ["class", "agnostic", "soft"])
def test_one_candidate_is_one_detection(nms):
    detections = postprocess(few_outputs(0.8), PostprocessOptions(nms=nms))[0]
    assert rows(detections) == [(0, 0, 50, 50, pytest.approx(0.8), 0)]


@pytest.mark.parametrize("nms", ["class", "agnostic", "soft"])
@pytest.mark.parametrize("most", [1, 7, 100])
def test_detections_are_capped_and_sorted_by_descending_score(nms, most):
    for detections in postprocess(random_outputs(), PostprocessOptions(nms=nms, max_detections=most)):
        assert len(detections) == most
        assert detections.scores.diff().le(0).all()
        assert detections.boxes.dtype == detections.scores.dtype == torch.float32
        assert detections.labels.dtype == torch.int64


@pytest.mark.parametrize("nms", ["class", "agnostic", "soft"])
def test_images_of_a_batch_do_not_affect_each_other(nms):
    outputs = random_outputs(3)
    together = postprocess(outputs, PostprocessOptions(nms=nms))
    for image in range(3):
        alone = Outputs(outputs.class_logits[image : image + 1], outputs.box_deltas[image : image + 1], outputs.anchors)
        assert rows(postprocess(alone, PostprocessOptions(nms=nms))[0]) == rows(together[image])


def test_outputs_of_low_precision_give_float32_detections():
    outputs = random_outputs()
    low = Outputs(outputs.class_logits.bfloat16(), outputs.box_deltas.bfloat16(), outputs.anchors)
    for detections in postprocess(low):
        assert detections.boxes.dtype == detections.scores.dtype == torch.float32
        assert len(detections) == 100


def test_boxes_are_not_clipped_to_the_input():
    assert postprocess(random_outputs())[0].boxes.min() < 0


def test_no_gradient_is_kept():
    outputs = random_outputs(1)
    outputs.class_logits.requires_grad_()
    assert not postprocess(outputs)[0].scores.requires_grad


# Hard NMS


def slow_nms(candidates, threshold, most, within_class):
    kept = []
    for index in range(len(candidates.scores)):
        for other, _ in kept:
            same = candidates.labels[index] == candidates.labels[other] or not within_class
            if same and overlap(candidates.boxes[index], candidates.boxes[other]) > threshold:
                break
        else:
            kept.append((index, candidates.scores[index].item()))
        if len(kept) == most:
            break
    return candidates, kept


@pytest.mark.parametrize("within_class", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("most", [5, 300])
def test_hard_nms_agrees_with_a_slow_loop(within_class, threshold, most):
    candidates = random_candidates(90)
    assert_same(
        hard_nms(candidates, threshold, most, within_class), slow_nms(candidates, threshold, most, within_class)
    )


def test_hard_nms_agrees_with_torchvision():
    candidates = random_candidates(3000, 7)
    keep = torchvision.ops.batched_nms(candidates.boxes, candidates.scores, candidates.labels, 0.5)
    assert_same(
        hard_nms(candidates, 0.5, 5000), (candidates, [(k, candidates.scores[k].item()) for k in keep.tolist()])
    )


@pytest.mark.parametrize("within_class", [True, False])
@pytest.mark.parametrize("most", [1, 2, 20, 100])
def test_a_cap_gives_the_first_of_what_there_is_without_it(most, within_class):
    candidates = random_candidates(3000, 2)
    assert (
        rows(hard_nms(candidates, 0.2, most, within_class))
        == rows(hard_nms(candidates, 0.2, 3000, within_class))[:most]
    )


def test_a_crowd_of_duplicates_does_not_hide_what_comes_after_it():
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(1000, 1)
    boxes[999] += 100
    scores = torch.linspace(1, 0.5, 1000)
    detections = hard_nms(Candidates(boxes, scores, torch.zeros(1000).long()), 0.5, 2)
    assert detections.scores.tolist() == [1.0, 0.5]


def test_only_more_than_the_threshold_suppresses():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # IoU 0.5
    candidates = Candidates(boxes, torch.tensor([0.9, 0.8]), torch.zeros(2).long())
    assert len(hard_nms(candidates, 0.5, 10)) == 2
    assert len(hard_nms(candidates, 0.49, 10)) == 1


def test_classes_do_not_suppress_each_other_even_far_outside_the_image():
    boxes = torch.tensor([[-1e5, -1e5, 1e5, 1e5]]).repeat(90, 1)
    candidates = Candidates(boxes, torch.linspace(1, 0.1, 90), torch.arange(90))
    assert len(hard_nms(candidates, 0.5, 100)) == 90
    assert len(hard_nms(candidates, 0.5, 100, within_class=False)) == 1


def test_small_boxes_keep_their_precision_beside_huge_ones():
    huge, boxes = [-3e5, -3e5, 7e5, 7e5], [[10.0, 10, 14, 14], [12.0, 10, 16, 14], [10.25, 10, 14.25, 14]]
    candidates = Candidates(
        torch.tensor([huge, *boxes]), torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 89, 89, 89])
    )
    assert_same(hard_nms(candidates, 0.5, 10), slow_nms(candidates, 0.5, 10, True))


KERNEL = """
import os, sys
os.environ["TRITON_INTERPRET"] = "1"
import torch
from effdet.postprocess.nms_kernel import suppress_by_kernel
from effdet.types import PostprocessOptions

batch = torch.load(sys.argv[1])
rows = {
    (nms, most): suppress_by_kernel(*batch, PostprocessOptions(0.05, nms, max_detections=most))
    for nms in ("class", "agnostic", "soft")
    for most in (1, 40)
}
torch.save(rows, sys.argv[2])
"""


def tied_candidates(images=3, count=300):
    """Boxes with duplicates, equal scores, boxes without area, and entries that are no candidates."""
    each = [random_candidates(count, seed=seed) for seed in range(images)]
    boxes = torch.stack([one.boxes for one in each])
    boxes[:, 100:150] = boxes[:, :50]
    boxes[:, 200, 2:] = boxes[:, 200, :2]
    scores = torch.stack([one.scores for one in each]).mul(20).round().div(20)
    scores[1, 20:] = -1
    scores[2] = -1
    return boxes, scores, torch.stack([one.labels for one in each])


@pytest.mark.parametrize("nms", ["class", "agnostic", "soft"])
def test_rounds_over_a_batch_give_what_a_slow_loop_gives(nms):
    boxes, scores, labels = tied_candidates()
    options = PostprocessOptions(0.05, nms, max_detections=40)
    for image, own in enumerate(suppress_by_rounds(boxes, scores, labels, options)):
        valid = scores[image] >= 0
        candidates = Candidates(boxes[image, valid], scores[image, valid], labels[image, valid])
        if nms == "soft":
            _, expected = slow_soft_nms(candidates, 0.5, 0.05, 40)
        else:
            _, expected = slow_nms(candidates, 0.5, 40, nms == "class")
        assert (own[:, 5] >= 0).sum() == len(expected)
        for row, (index, score) in zip(own, expected, strict=False):
            assert row.tolist() == [*candidates.boxes[index].tolist(), pytest.approx(score), candidates.labels[index]]


def test_the_kernel_gives_what_rounds_give(tmp_path):
    pytest.importorskip("triton")
    torch.save(tied_candidates(), tmp_path / "batch.pt")
    subprocess.run([sys.executable, "-c", KERNEL, tmp_path / "batch.pt", tmp_path / "rows.pt"], check=True)
    for (nms, most), own in torch.load(tmp_path / "rows.pt").items():
        options = PostprocessOptions(0.05, nms, max_detections=most)
        torch.testing.assert_close(own, suppress_by_rounds(*tied_candidates(), options))


# Soft-NMS


def slow_soft_nms(candidates, sigma, threshold, most):
    scores = dict(enumerate(candidates.scores.tolist()))
    kept = []
    while scores and len(kept) < most:
        pick = max(scores, key=lambda index: scores[index])
        score = scores.pop(pick)
        if score <= threshold:
            break
        kept.append((pick, score))
        for index in scores:
            if candidates.labels[index] == candidates.labels[pick]:
                scores[index] *= math.exp(-(overlap(candidates.boxes[index], candidates.boxes[pick]) ** 2) / sigma)
    return candidates, kept


@pytest.mark.parametrize("sigma", [0.1, 0.5])
@pytest.mark.parametrize(("threshold", "most"), [(0.001, 40), (0.3, 200), (0.001, 200)])
def test_soft_nms_agrees_with_a_slow_loop(sigma, threshold, most):
    candidates = random_candidates(120)
    assert_same(soft_nms(candidates, sigma, threshold, most), slow_soft_nms(candidates, sigma, threshold, most))


def test_soft_nms_multiplies_the_score_of_a_duplicate_by_the_gaussian():
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(3, 1)
    candidates = Candidates(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1]))
    detections = soft_nms(candidates, 0.5, 0.001, 10)
    assert detections.scores.tolist() == pytest.approx([0.9, 0.7, 0.8 * math.exp(-2)])
    assert detections.labels.tolist() == [0, 1, 0]


def test_soft_nms_does_not_change_the_candidates():
    candidates = random_candidates(20)
    before = candidates.scores.clone()
    soft_nms(candidates, 0.5, 0.001, 10)
    assert candidates.scores.equal(before)


# Classes


def test_classes_are_sorted_by_descending_probability():
    logits = torch.randn(4, 11, generator=torch.Generator().manual_seed(0)) * 3
    for row, result in zip(logits.double(), classify(logits), strict=True):
        whole = sum(math.exp(value) for value in row.tolist())
        pairs = sorted(((math.exp(value) / whole, label) for label, value in enumerate(row.tolist())), reverse=True)[:5]
        assert result.scores.tolist() == pytest.approx([score for score, _ in pairs])
        assert result.labels.tolist() == [label for _, label in pairs]


@pytest.mark.parametrize(("classes", "top", "expected"), [(1, 5, 1), (3, 5, 3), (8, 5, 5), (8, 1, 1), (8, 20, 8)])
def test_there_are_at_most_top_classes(classes, top, expected):
    result = classify(torch.randn(2, classes), top)
    assert [len(each) for each in result] == [expected, expected]


def test_of_equal_logits_the_lower_label_comes_first():
    logits = torch.zeros(1, 300)
    logits[0, [7, 250]] = 1
    assert rank_classes(logits, 5)[1].tolist() == [[7, 250, 0, 1, 2]]


def test_logits_of_low_precision_give_float32_probabilities():
    (result,) = classify(torch.tensor([[0.0, -100, 100]], dtype=torch.bfloat16, requires_grad=True))
    assert (result.scores.dtype, result.labels.dtype) == (torch.float32, torch.int64)
    assert result.scores.tolist() == pytest.approx([1, 0, 0])
    assert result.labels.tolist() == [2, 0, 1]
    assert not result.scores.requires_grad


def test_a_batch_without_images_has_no_classes():
    assert classify(torch.empty(0, 4)) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_classes_of_nan_and_inf_are_an_error_that_names_the_image(value):
    logits = torch.zeros(3, 4)
    logits[1, 2] = value
    with pytest.raises(NotFiniteError) as error:
        classify(logits)
    assert error.value.image == 1
