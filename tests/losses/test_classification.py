import math

import pytest
import torch

from effdet.losses import ClassificationLoss


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("classes", [2, 7])
def test_the_cross_entropy_of_mixed_targets_follows_the_written_out_formula(smoothing, classes):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(6, classes, generator=generator) * 3
    targets = torch.rand(6, classes, generator=generator).pow(4)
    targets /= targets.sum(1, keepdim=True)
    expected = 0.0
    for row, probabilities in zip(logits.tolist(), targets.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        for value, probability in zip(row, probabilities, strict=True):
            expected += ((1 - smoothing) * probability + smoothing / classes) * (log_sum - value)
    assert ClassificationLoss(smoothing)(logits, targets, 2)["loss"].item() * 2 == pytest.approx(expected, rel=1e-5)


def test_without_arguments_the_loss_is_smoothed_by_a_tenth_and_averaged_over_the_images():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(3)[[0, 1, 2, 2]]
    losses = ClassificationLoss()(logits, targets)
    assert tuple(losses) == ClassificationLoss.names == ("loss",)
    torch.testing.assert_close(losses, ClassificationLoss(0.1)(logits, targets, 4))


def test_a_mixture_of_two_images_costs_the_mixture_of_their_losses():
    logits = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    criterion = ClassificationLoss(0.1)
    one, two = torch.eye(5)[[1]], torch.eye(5)[[3]]
    first, second = (criterion(logits, target, 1)["loss"] for target in (one, two))
    both = criterion(logits, 0.3 * one + 0.7 * two, 1)["loss"]
    torch.testing.assert_close(both, 0.3 * first + 0.7 * second)


def test_micro_batches_add_up_to_the_loss_and_the_gradient_of_the_batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=generator).requires_grad_()
    targets = torch.eye(4)[[0, 1, 2, 3, 0]]
    criterion = ClassificationLoss(0.1)
    whole = criterion(logits, targets)["loss"]
    chunks = [criterion(*chunk, 5)["loss"] for chunk in zip(logits.split(2), targets.split(2), strict=True)]
    torch.testing.assert_close(sum(chunks), whole)
    gradients = [torch.autograd.grad(total, logits)[0] for total in (whole, sum(chunks))]
    torch.testing.assert_close(*gradients)


def test_the_cross_entropy_of_short_floats_is_computed_in_float32():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).bfloat16() * 100
    targets = torch.eye(4)[[0, 1, 2, 3, 0]]
    value = ClassificationLoss(0.1)(logits, targets, 5)["loss"]
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, ClassificationLoss(0.1)(logits.float(), targets, 5)["loss"])
