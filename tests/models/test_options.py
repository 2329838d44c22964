import pytest

from effdet.errors import ConfigError
from effdet.models import EFFICIENTDETS, EFFICIENTNETS, ModelOptions, list_models, make_spec


@pytest.mark.parametrize("name", list_models())
def test_without_changes_a_model_is_the_row_of_its_table(name):
    assert make_spec(ModelOptions(name)) == {**EFFICIENTDETS, **EFFICIENTNETS}[name]


def test_an_unknown_model_is_refused_with_near_names_of_both_tasks():
    with pytest.raises(ConfigError, match="unknown model 'efficientdet_d9'; did you mean efficientdet_d"):
        make_spec(ModelOptions("efficientdet_d9"))
    with pytest.raises(ConfigError, match="unknown model 'efficientnet_b00'; did you mean efficientnet_b0"):
        make_spec(ModelOptions("efficientnet_b00"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0.0}, "width is 0.0; expected more than 0"),
        ({"depth": -1.0}, "depth is -1.0; expected more than 0"),
        ({"anchor_scale": 0.0}, "anchor_scale is 0.0; expected more than 0"),
        ({"dropout": 1.5}, "dropout is 1.5; expected 0 to 1"),
        ({"drop_path": -0.1}, "drop_path is -0.1; expected 0 to 1"),
        ({"norm_momentum": 2.0}, "norm_momentum is 2.0; expected 0 to 1"),
        ({"in_channels": 0}, "in_channels is 0; expected at least 1"),
        ({"image_size": (0, 64)}, "image_size is (0, 64); expected a height and a width of at least 1 pixel"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(options, message):
    with pytest.raises(ConfigError) as error:
        ModelOptions("efficientdet_d0", **options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("efficientnet_b0", {"backbone": "efficientnet_b1"}, "backbone is set to 'efficientnet_b1', but"),
        ("efficientnet_b0", {"anchor_scale": 4.0}, "anchor_scale is set to 4.0, but efficientnet_b0 is a classifier"),
        ("efficientnet_b0", {"anchor_aspects": ((1.0, 1.0),)}, "anchor_aspects is set to"),
        ("efficientdet_d0", {"dropout": 0.5}, "dropout is set to 0.5, but efficientdet_d0 is a detector"),
    ],
)
def test_an_option_of_the_other_task_is_refused_by_name(name, options, message):
    with pytest.raises(ConfigError) as error:
        make_spec(ModelOptions(name, **options))
    assert message in str(error.value)
    assert str(error.value).endswith(f"; leave {next(iter(options))} out")


@pytest.mark.parametrize("name", ["efficientdet_d0", "efficientnet_b0"])
def test_options_that_are_zero_are_not_mistaken_for_options_that_are_not_set(name):
    spec = make_spec(ModelOptions(name, drop_path=0.0, norm_momentum=0.0))
    assert (spec.backbone.drop_path, spec.norm_momentum, spec.backbone.norm_momentum) == (0.0, 0.0, 0.0)
    assert make_spec(ModelOptions("efficientnet_b0", dropout=0.0)).dropout == 0.0
