"""A data set and rows of a review of it, for the tests of what is written."""

import pytest

from .labelled_scenes import row, scenes


@pytest.fixture
def table():
    return scenes(num_images=3, per_image=4)


@pytest.fixture
def rows(table):
    labels = table.labels[table.rows(1)]
    other = table.label_map.names[(labels[2] + 1) % 3]
    return [
        row("missed", table, 0, proposed="owl"),
        row("misnamed", table, 1, 3, other, probability=0.7),
        row("spurious", table, 2, 1, probability=0.3),
    ]
