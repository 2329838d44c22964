import math

import pytest
import torch
import torch.nn.functional as F

from effdet.losses import focal
from effdet.losses.focal import focal_loss_sum


def slow_focal(logits, positive, alpha, gamma, smoothing):
    one_hot = torch.zeros_like(logits)
    one_hot[positive] = 1
    p = logits.sigmoid()
    p_true = one_hot * p + (1 - one_hot) * (1 - p)
    weight = one_hot * alpha + (1 - one_hot) * (1 - alpha)
    soft = one_hot * (1 - smoothing) + smoothing / 2
    entropy = -(soft * p.log() + (1 - soft) * (1 - p).log())
    return (weight * (1 - p_true) ** gamma * entropy).sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_focal_loss_and_its_gradient_follow_the_written_out_formula(gamma, smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(2, 30, 5, generator=generator, dtype=torch.float64) * 4).requires_grad_()
    positive = (torch.tensor([0, 0, 1]), torch.tensor([3, 17, 29]), torch.tensor([1, 4, 0]))
    results = []
    for formula in (focal_loss_sum, slow_focal):
        value = formula(logits, positive, 0.25, gamma, smoothing)
        results.append((value, torch.autograd.grad(value, logits)[0]))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)])
def test_the_gradient_of_the_focal_loss_is_that_of_its_values(weights):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    positive = (torch.tensor([0, 1]), torch.tensor([3, 4]), torch.tensor([1, 2]))
    assert torch.autograd.gradcheck(lambda logits: focal_loss_sum(logits, positive, 0.25, 1.5, 0.1, weights), logits)


def test_chunks_of_the_focal_loss_add_up_to_the_whole(monkeypatch):
    logits = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    positive = (torch.tensor([0, 1]), torch.tensor([3, 49]), torch.tensor([1, 2]))
    results = []
    for logits_at_once in (2**17, 7):
        monkeypatch.setattr(focal, "LOGITS_AT_ONCE_ON_CPU", logits_at_once)
        value = focal_loss_sum(logits, positive, 0.25, 1.5, 0.1)
        results.append((value, torch.autograd.grad(value, logits)[0]))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_focal_loss_of_short_floats_is_computed_in_float32(dtype):
    short = (torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0)) * 4 - 6).to(dtype).requires_grad_()
    logits = short.detach().float().requires_grad_()
    positive = (torch.tensor([0, 1]), torch.tensor([3, 49]), torch.tensor([1, 2]))
    value, expected = (focal_loss_sum(values, positive, 0.25, 1.5, 0.0) for values in (short, logits))
    torch.testing.assert_close(value, expected)
    factor = 2.0**16 / 100  # as a loss scaler and the positives make it
    (value * factor).backward()
    (expected * factor).backward()
    assert short.grad.dtype == dtype
    torch.testing.assert_close(short.grad.float(), logits.grad, rtol=0.01, atol=1e-7)


def test_the_focal_loss_saves_nothing_but_its_gradient_for_backward():
    saved = []
    logits = torch.randn(2, 50, 3).bfloat16().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        focal_loss_sum(logits, (torch.tensor([0]), torch.tensor([3]), torch.tensor([1])), 0.25, 1.5, 0.0)
    assert [(tensor.shape, tensor.dtype) for tensor in saved] == [(logits.shape, torch.bfloat16)]


def test_without_focus_and_balance_it_is_half_the_cross_entropy():
    logits = torch.randn(7, 3)
    one_hot = torch.zeros(7, 3)
    one_hot[2, 1] = 1
    value = focal_loss_sum(logits, (torch.tensor([2]), torch.tensor([1])), 0.5, 0.0, 0.0)
    torch.testing.assert_close(value, 0.5 * F.binary_cross_entropy_with_logits(logits, one_hot, reduction="sum"))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("size", [50.0, 1e4])
def test_the_gradient_is_finite_at_extreme_logits(size, smoothing):
    logits = torch.tensor([[size, -size, size, -size]], requires_grad=True)
    positive = (torch.tensor([0, 0]), torch.tensor([0, 1]))
    value = focal_loss_sum(logits, positive, 0.25, 1.5, smoothing)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    right_positive, wrong_positive, wrong_negative, right_negative = logits.grad[0].tolist()
    assert wrong_positive == pytest.approx(-0.25 * (1 - smoothing / 2), rel=1e-3)
    assert wrong_negative == pytest.approx(0.75 * (1 - smoothing / 2), rel=1e-3)
    assert abs(right_positive) < 1e-6
    assert abs(right_negative) < 1e-6


def test_the_loss_of_untrained_scores_is_where_the_prior_puts_it():
    logits = torch.full((100, 7), -math.log(99))
    value = focal_loss_sum(logits, (torch.tensor([5]), torch.tensor([2])), 0.25, 1.5, 0.0)
    expected = 699 * 0.75 * 0.01**1.5 * -math.log(0.99) + 0.25 * 0.99**1.5 * -math.log(0.01)
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_class_weights_multiply_the_loss_of_each_class():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 30, 3, generator=generator)
    positive = (torch.tensor([0, 0, 1]), torch.tensor([3, 17, 29]), torch.tensor([1, 2, 1]))
    weights = torch.tensor([0.0, 3, 0.5])
    expected = 0.0
    for label, weight in enumerate(weights.tolist()):
        of_class = positive[2] == label
        alone = (positive[0][of_class], positive[1][of_class], torch.zeros_like(positive[2][of_class]))
        expected += weight * focal_loss_sum(logits[..., label : label + 1], alone, 0.25, 1.5, 0.1)
    torch.testing.assert_close(focal_loss_sum(logits, positive, 0.25, 1.5, 0.1, weights), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1, 2, 0, 1])])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernels_of_a_gpu_give_the_focal_loss_and_its_gradient(dtype, gamma, smoothing, weights):
    if not focal.has_kernels():
        pytest.skip("Triton does not run here")
    logits = (torch.randn(3, 2000, 5, generator=torch.Generator().manual_seed(0)) * 4 - 4).to(dtype)
    logits[0, :2] = torch.tensor([[-60.0], [50.0]])
    rows = torch.arange(0, 2000, 7)
    padding = torch.full((50,), -1)
    positive = torch.cat([rows % 3, padding]), torch.cat([rows, 0 * padding]), torch.cat([rows % 5, 0 * padding])
    results = []
    for device in ("cpu", "cuda"):
        given = logits.to(device).float().requires_grad_() if device == "cpu" else logits.to(device).requires_grad_()
        own = None if weights is None else weights.to(device)
        value = focal_loss_sum(given, tuple(index.to(device) for index in positive), 0.25, gamma, smoothing, own)
        (value * 3).backward()
        results.append((value.detach().cpu(), given.grad.float().cpu()))
    (value, gradient), (other, computed) = results
    torch.testing.assert_close(other, value, rtol=1e-5, atol=0)
    torch.testing.assert_close(computed, gradient, rtol=max(float(torch.finfo(dtype).eps), 2e-5), atol=1e-6)
