import importlib

import pytest

import effdet


def test_the_public_function_can_be_called_after_its_package_was_imported():
    importlib.import_module("effdet.exporting.pipeline")
    with pytest.raises(effdet.WeightsError, match=r"missing\.pt"):
        effdet.export("missing.pt")
