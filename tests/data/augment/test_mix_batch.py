import numpy as np
import pytest
import torch

from effdet.data.augment.mix_batch import mix_batch


def batch(count=8, size=(20, 30), classes=5):
    """Image i has the constant value 10 * i and the label i % classes."""
    values = torch.arange(count, dtype=torch.uint8) * 10
    images = values[:, None, None, None].expand(count, 3, *size).contiguous(memory_format=torch.channels_last)
    return images, torch.arange(count) % classes


def mixed(images, labels, mixup, cutmix, seed=0, classes=5):
    return mix_batch(images, labels, classes, mixup, cutmix, np.random.default_rng(seed))


def test_without_mixing_images_stay_and_targets_are_one_hot():
    images, labels = batch()
    result, targets = mixed(images, labels, 0, 0)
    assert result is images
    assert targets.dtype == torch.float32
    assert torch.equal(targets, torch.nn.functional.one_hot(labels, 5).float())


@pytest.mark.parametrize("alpha", [0.067, 0.2, 1.0, 5.0])
def test_mixup_blends_with_the_reversed_batch_and_targets_are_the_weights(alpha):
    images, labels = batch(6)
    labels = torch.arange(6)
    result, targets = mixed(images, labels, alpha, 0, classes=6)
    for row, partner in enumerate(reversed(range(6))):
        share = targets[row, row].item()
        assert 0.5 <= share <= 1
        assert targets[row, partner].item() == pytest.approx(1 - share)
        wanted = 10 * (share * row + (1 - share) * partner)
        assert (result[row].float() - wanted).abs().max() <= 0.501
    assert len(set(targets.max(dim=1).values.tolist())) > 1


def test_cutmix_pastes_a_rectangle_of_the_partner_and_targets_are_its_area():
    images, _ = batch(6)
    seen = set()
    for seed in range(50):
        result, targets = mixed(images, torch.arange(6), 0, 1.0, seed, classes=6)
        for row, partner in enumerate(reversed(range(6))):
            pasted = result[row] == 10 * partner
            assert (pasted | (result[row] == 10 * row)).all()
            assert (pasted == pasted[:1]).all()
            rows, columns = pasted[0].any(dim=1), pasted[0].any(dim=0)
            assert torch.equal(pasted[0], rows[:, None] & columns)
            for line in (rows, columns):
                assert (line[1:] != line[:-1]).sum() <= 2
            area = pasted[0].float().mean().item()
            assert targets[row, partner].item() == pytest.approx(area, abs=1e-6)
            assert targets[row, row].item() == pytest.approx(1 - area, abs=1e-6)
            seen.add(round(area, 1))
    assert {0.0, 0.2, 0.5, 0.8} <= seen


def test_the_pasted_fraction_is_beta_distributed_unless_clipped_at_the_edge():
    images, _ = batch(2000, (32, 32))
    shares = 1 - mixed(images, torch.arange(2000), 0, 1.0, classes=2000)[1].diagonal()
    assert 0.2 < shares.mean().item() < 0.45  # 0.5 without the edge
    assert shares.max().item() > 0.8


def test_with_both_the_first_half_is_blended_and_the_second_pasted():
    images, _ = batch(9)
    result, targets = mixed(images, torch.arange(9), 1.0, 1.0, classes=9)
    first, second = result[:4], result[4:]
    assert all(len(image.unique()) == 1 for image in first)
    for row, image in enumerate(second):
        assert set(image.unique().tolist()) <= {10 * (4 + row), 10 * (8 - row)}
    assert targets[:4, 4:].sum() == 0
    assert targets[4:, :4].sum() == 0


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.5, 0), (0, 0.5), (0.5, 0.5)])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_batch_keeps_its_form_and_targets_sum_to_one(mixup, cutmix, count):
    images, labels = batch(count)
    before = images.clone()
    result, targets = mixed(images, labels, mixup, cutmix)
    assert torch.equal(images, before)
    assert result.shape == images.shape
    assert result.dtype == torch.uint8
    assert count == 1 or result.is_contiguous(memory_format=torch.channels_last)
    assert targets.shape == (count, 5)
    assert targets.dtype == torch.float32
    assert torch.allclose(targets.sum(dim=1), torch.ones(count))


def test_partners_of_the_same_class_leave_the_target_whole():
    images, _ = batch(4)
    for mixup, cutmix in ((1, 0), (0, 1)):
        targets = mixed(images, torch.full((4,), 2), mixup, cutmix)[1]
        assert torch.allclose(targets[:, 2], torch.ones(4))


def test_the_generator_alone_decides():
    images, labels = batch()
    first, again, other = (mixed(images, labels, 0.5, 0.5, seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_mixing_works_where_the_batch_is():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    images, labels = batch()
    here, there = (mixed(images.to(device), labels.to(device), 0.5, 0.5) for device in ("cpu", "cuda"))
    assert there[0].is_cuda
    assert there[1].is_cuda
    assert torch.allclose(here[1], there[1].cpu())
    assert (here[0].int() - there[0].cpu().int()).abs().max() <= 1
