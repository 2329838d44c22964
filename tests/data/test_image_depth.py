import numpy as np
import pytest

from effdet.data.image_depth import ALPHA_DROPPED, CLIPPED, NAN_TO_BLACK, to_rgb
from effdet.errors import ConfigError, DataError


def grey(values, dtype, value_range=None):
    """One row of values, and the notes."""
    image, notes = to_rgb(np.array([values], dtype), "a.tif", value_range)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert (image == image[..., :1]).all()
    return image[0, :, 0].tolist(), notes


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.uint32, np.int64, ">u2"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_integers_are_scaled_by_the_smallest_depth_that_holds_the_largest(dtype, bits):
    largest = 2**bits - 1
    if largest > np.iinfo(dtype).max:
        pytest.skip("not in this type")
    values, notes = grey([0, largest // 2, largest], dtype)
    assert values == [0, 127, 255]
    assert notes == [f"{8 * np.dtype(dtype).itemsize}-bit values scaled from 0..{largest} to 0..255"]


def test_8_bit_values_in_a_larger_type_stay_as_they_are():
    every = list(range(256))
    for dtype in (np.uint16, np.int32, np.int16):
        assert grey(every, dtype)[0] == every
    assert grey([0, 0], np.uint16)[0] == [0, 0]
    assert grey(every, np.uint8) == (every, [])


def test_a_value_range_is_mapped_linearly_and_clipped():
    values, notes = grey([-2000, -1000, 0, 1000, 9000], np.int16, (-1000, 1000))
    assert values == [0, 0, 128, 255, 255]
    assert notes == ["values mapped from -1000..1000 to 0..255", CLIPPED]
    assert grey([100, 200, 300], np.uint16, (100, 300)) == ([0, 128, 255], ["values mapped from 100..300 to 0..255"])
    assert grey([10.0, 1e38, -np.inf, np.inf], np.float32, (0, 20))[0] == [128, 255, 0, 255]
    assert grey([0, 50, 255], np.uint8, (0, 50)) == ([0, 50, 255], [])  # of 8 bits already


def test_floats_in_0_to_1_need_no_range():
    for dtype in (np.float16, np.float32, np.float64):
        assert grey([0, 0.5, 1], dtype) == ([0, 128, 255], ["float values scaled from 0..1 to 0..255"])


def test_nan_becomes_black_and_is_noted():
    values, notes = grey([np.nan, 0.2, 1], np.float32)
    assert values == [0, 51, 255]
    assert NAN_TO_BLACK in notes
    values, notes = grey([np.nan, 10, 20], np.float32, (10, 20))
    assert values == [0, 0, 255]
    assert notes == [NAN_TO_BLACK, "values mapped from 10..20 to 0..255"]
    assert grey([np.nan], np.float64)[0] == [0]


@pytest.mark.parametrize(
    ("values", "dtype", "stated"),
    [
        ([0, 2.5], np.float32, "float32 values from 0 to 2.5"),
        ([-0.5, 1], np.float64, "float64 values from -0.5 to 1"),
        ([0, np.inf], np.float32, "float32 values from 0 to inf"),
        ([-1, 5], np.int16, "int16 values from -1 to 5"),
        ([0, 70000], np.int32, "int32 values from 0 to 70000"),
    ],
)
def test_values_that_need_a_range_are_refused_with_its_key(values, dtype, stated):
    with pytest.raises(DataError, match=rf"^a\.tif: {stated}; set data\.value_range to \[low, high\]"):
        grey(values, dtype)


@pytest.mark.parametrize("value_range", [(5, 5), (6, 5), (0, np.inf), (np.nan, 1)])
def test_a_range_that_is_none_is_refused(value_range):
    with pytest.raises(ConfigError, match=r"expected \[low, high\] with low < high"):
        grey([1, 2], np.uint16, value_range)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_grey_becomes_rgb_and_alpha_is_dropped(channels, dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels)).astype(dtype)
    if channels in (2, 4):
        pixels[..., -1] = np.iinfo(dtype).max  # must not count as a value of the image
    image, notes = to_rgb(pixels, "a")
    colors = pixels[..., :1] if channels < 3 else pixels[..., :3]
    assert (image == np.broadcast_to(colors, (5, 7, 3))).all()
    assert (ALPHA_DROPPED in notes) == (channels in (2, 4))


def test_truth_values_are_black_and_white():
    assert grey([True, False], np.bool_)[0] == [255, 0]


@pytest.mark.parametrize(
    "pixels",
    [np.zeros(3), np.zeros((2, 3, 5)), np.zeros((0, 3, 3)), np.zeros((1, 2, 3, 3)), np.zeros((2, 3), complex)],
)
def test_other_shapes_and_types_are_refused(pixels):
    with pytest.raises(DataError, match=r"^a: type .* and shape .*; expected numbers of shape \[H, W\]"):
        to_rgb(pixels, "a")
