"""Models and criteria work in a training loop of one's own, without recipe, engine or data set."""

import torch

from effdet import ClassificationLoss, DetectionLoss, ModelOptions, Target, create_model


def picture(left, top):
    """A dark image, uint8 [3, 64, 64], with a bright square of 24 pixels."""
    image = torch.full((3, 64, 64), 40, dtype=torch.uint8)
    image[:, top : top + 24, left : left + 24] = 220
    return image


def test_a_detector_is_trained_in_a_few_lines():
    torch.manual_seed(0)
    corners = [(4, 8), (32, 4), (20, 36), (36, 30)]
    images = torch.stack([picture(*corner) for corner in corners])
    boxes = [torch.tensor([[left, top, left + 24, top + 24]]).float() for left, top in corners]
    targets = [Target(box, torch.tensor([0]), index, (64, 64), (1.0, 1.0)) for index, box in enumerate(boxes)]

    model = create_model(ModelOptions("efficientdet_lite0", image_size=(64, 64)), num_classes=2)
    criterion = DetectionLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    totals = []
    for _ in range(12):
        losses = criterion(model(images), targets)
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        totals.append(losses["loss"].item())

    assert sum(totals[-2:]) < 0.8 * sum(totals[:2])


def test_a_classifier_is_trained_in_a_few_lines():
    torch.manual_seed(0)
    images = torch.stack([picture(4, 8), picture(36, 30), picture(6, 4), picture(34, 36)])
    labels = torch.tensor([0, 1, 0, 1])

    model = create_model(ModelOptions("efficientnet_lite0", image_size=(64, 64)), num_classes=2)
    criterion = ClassificationLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(8):
        losses = criterion(model(images), torch.nn.functional.one_hot(labels, 2).float())
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        totals.append(losses["loss"].item())

    assert sum(totals[-2:]) < 0.8 * sum(totals[:2])
