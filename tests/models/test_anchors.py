import math

import pytest
import torch

from effdet.models.anchors import ASPECTS, anchor_boxes, anchors_per_cell, aspects_of_ratios, level_sizes

# At 512 x 512, finest level, first cell, as (y1, x1, y2, x2); the wide and the tall are each other transposed.
PAIRS = [
    (-12, -12, 20, 20),
    (-7.2, -18.4, 15.2, 26.4),
    (-18.4, -7.2, 26.4, 15.2),
    (-16.1587, -16.1587, 24.1587, 24.1587),
    (-10.1111, -24.2222, 18.1111, 32.2222),
    (-24.2222, -10.1111, 32.2222, 18.1111),
    (-21.3984, -21.3984, 29.3984, 29.3984),
    (-13.7789, -31.5578, 21.7789, 39.5578),
    (-31.5578, -13.7789, 39.5578, 21.7789),
    (-12, -4, 20, 28),
]
RATIOS = [
    (-12, -12, 20, 20),
    (-7.3137, -18.6274, 15.3137, 26.6274),
    (-18.6274, -7.3137, 26.6274, 15.3137),
    (-16.1587, -16.1587, 24.1587, 24.1587),
    (-10.2544, -24.5088, 18.2544, 32.5088),
    (-24.5088, -10.2544, 32.5088, 18.2544),
    (-21.3984, -21.3984, 29.3984, 29.3984),
    (-13.9594, -31.9188, 21.9594, 39.9188),
    (-31.9188, -13.9594, 39.9188, 21.9594),
    (-12, -4, 20, 28),
]


@pytest.mark.parametrize(("aspects", "expected"), [(ASPECTS, PAIRS), (aspects_of_ratios([1.0, 2.0, 0.5]), RATIOS)])
def test_first_anchors_are_those_of_the_reference(aspects, expected):
    anchors = anchor_boxes((512, 512), aspects=aspects)
    torch.testing.assert_close(anchors[:10, [1, 0, 3, 2]], torch.tensor(expected).float(), atol=1e-4, rtol=0)
    assert anchors.dtype == torch.float32


def test_the_last_square_base_anchor_is_that_of_the_reference():
    assert anchor_boxes((512, 512))[-9].tolist() == [192, 192, 704, 704]


@pytest.mark.parametrize(
    ("size", "max_level", "count"),
    [
        ((512, 512), 7, 49_104),
        ((640, 640), 7, 76_725),
        ((768, 768), 7, 110_484),
        ((1536, 1536), 7, 441_936),
        ((1536, 1536), 8, 442_260),
        ((320, 320), 7, 19_206),
        ((512, 640), 7, 61_380),
        ((384, 640), 7, 46_035),
        ((1, 1), 7, 45),
    ],
)
def test_the_number_of_anchors_is_that_of_the_reference(size, max_level, count):
    assert anchor_boxes(size, 3, max_level).shape == (count, 4)


def test_levels_halve_and_round_up():
    assert level_sizes((511, 513), 3, 7) == [(64, 65), (32, 33), (16, 17), (8, 9), (4, 5)]
    assert level_sizes((320, 320), 3, 8) == [(40, 40), (20, 20), (10, 10), (5, 5), (3, 3), (2, 2)]


def test_strides_are_fractional_where_a_level_does_not_divide_the_image():
    last = anchor_boxes((320, 320), scale=3)[-9 * 9 :]  # 3 x 3 cells of 106.667 pixels
    centre = (last[:, :2] + last[:, 2:]) / 2
    torch.testing.assert_close(centre[0], torch.tensor([320 / 6, 320 / 6]))
    assert (last[0, 2] - last[0, 0]).item() == pytest.approx(320, rel=1e-6)  # 3 strides


def test_anchors_go_by_level_row_column_octave_and_aspect():
    anchors = anchor_boxes((64, 128)).double()
    row = 0
    for level in range(3, 8):
        rows, columns = max(1, 64 >> level), max(1, 128 >> level)
        for y in range(rows):
            for x in range(columns):
                for octave in range(3):
                    for across, down in ASPECTS:
                        width = 4 * 128 / columns * 2 ** (octave / 3) * across
                        height = 4 * 64 / rows * 2 ** (octave / 3) * down
                        centre = ((x + 0.5) * 128 / columns, (y + 0.5) * 64 / rows)
                        expected = [centre[0] - width / 2, centre[1] - height / 2]
                        expected += [centre[0] + width / 2, centre[1] + height / 2]
                        assert anchors[row].tolist() == pytest.approx(expected, abs=1e-4)
                        row += 1
    assert row == len(anchors)


def test_ratios_become_factors_of_equal_area():
    for ratio, (across, down) in zip((1, 2, 0.5), aspects_of_ratios((1, 2, 0.5)), strict=True):
        assert across * down == pytest.approx(1)
        assert across / down == pytest.approx(ratio)
    assert aspects_of_ratios((2,))[0][0] == pytest.approx(math.sqrt(2))


def test_anchors_per_cell_count_octaves_and_aspects():
    assert anchors_per_cell() == 9
    assert anchors_per_cell([(1.0, 1.0)]) == 3
    assert len(anchor_boxes((512, 512), aspects=[(1.0, 1.0)])) * 3 == 49_104
