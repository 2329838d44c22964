"""Programs of torch.export that would run code when PyTorch opens or runs them are refused before that."""

import io
import json
import pickle
import zipfile

import pytest
import torch

from effdet.errors import WeightsError
from effdet.runtimes.program import open_graph

CPU = torch.device("cpu")


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))

    def forward(self, images):
        return {"logits": (images.float() * self.scale).mean((1, 2))}


@pytest.fixture(scope="module")
def program():
    """The entries of a sound program for batches of any size."""
    examples = torch.zeros((2, 8, 8, 3), dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=16)
    exported = torch.export.export(Network(), (examples,), dynamic_shapes={"images": {0: batch}})
    written = io.BytesIO()
    torch.export.save(exported, written)
    with zipfile.ZipFile(written) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


class Payload:
    """What runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def write(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def name_of(program, end):
    return next(name for name in program if name.endswith(end))


def pickled(payload):
    written = io.BytesIO()
    torch.save(payload, written)
    return written.getvalue()


def test_a_sound_program_runs(program, tmp_path):
    run = open_graph(write(tmp_path / "model.pt2", program), CPU)
    images = torch.full((3, 8, 8, 3), 2, dtype=torch.uint8).numpy()
    assert run(images)["logits"].tolist() == [[2.0] * 3] * 3


def as_examples(program, payload):
    return {**program, name_of(program, "sample_inputs/model.pt"): pickled(payload)}


def as_weight(program, payload):
    config = json.loads(program[name_of(program, "model_weights_config.json")])
    for weight in config["config"].values():
        weight["use_pickle"] = True
    weights = {name: pickled(payload) for name in program if name.rpartition("/")[2] == "weight_0"}
    return {**program, **weights, name_of(program, "model_weights_config.json"): json.dumps(config).encode()}


def as_object(program, payload):
    config = {"config": {"x": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}}}
    folder = name_of(program, "model_constants_config.json").rpartition("/")[0]
    entries = {f"{folder}/opaque_obj_0": pickle.dumps(payload)}
    return {**program, **entries, name_of(program, "model_constants_config.json"): json.dumps(config).encode()}


def as_legacy_weights(program, payload):
    return {**program, f"{name_of(program, 'weight_0').rpartition('/')[0]}/model.pt": pickled(payload)}


@pytest.mark.parametrize("change", [as_examples, as_weight, as_object, as_legacy_weights])
def test_a_pickle_in_a_program_is_not_read(program, tmp_path, change):
    path = write(tmp_path / "model.pt2", change(program, Payload(tmp_path / "written")))
    with pytest.raises(WeightsError, match="tensors and operators alone"):
        open_graph(path, CPU)
    assert not (tmp_path / "written").exists()


def changed_model(program, key, value, seen):
    """The program with every value of a key of its model replaced."""

    def change(tree):
        if isinstance(tree, dict):
            seen.extend(inner for name, inner in tree.items() if name == key)
            return {name: value if name == key else change(inner) for name, inner in tree.items()}
        return [change(inner) for inner in tree] if isinstance(tree, list) else tree

    name = name_of(program, "models/model.json")
    return {**program, name: json.dumps(change(json.loads(program[name]))).encode()}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target", "torch.hub.load_state_dict_from_url"),
        ("target", "torch.ops.load_library"),
        ("target", "torch.ops.aten.from_file.default"),
        ("target", "_operator.attrgetter"),
        ("target", "#extension:name"),
        ("expr_str", "Symbol('s0').__class__"),
        ("expr_str", "__import__('os').system('true')"),
        ("expr_str", "lambdify(1, 2)"),
        ("guards_code", ["print(1)"]),
        ("name", "x\nimport os"),
        ("forward_arg_names", ["images=print(1)"]),
        ("out_spec", '[1, {"type": "os.system", "context": "null", "children_spec": []}]'),
    ],
)
def test_a_program_whose_model_names_code_is_refused(program, tmp_path, key, value):
    seen = []
    path = write(tmp_path / "model.pt2", changed_model(program, key, value, seen))
    assert seen, f"the model has no {key}"
    with pytest.raises(WeightsError, match=f"its model has '{key}'"):
        open_graph(path, CPU)


def test_a_compressed_or_doubled_entry_is_refused(program, tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in program.items():
            archive.writestr(name, data)
    with pytest.raises(WeightsError, match="compressed"):
        open_graph(tmp_path / "bomb.pt2", CPU)
    path = write(tmp_path / "twice.pt2", program)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(name_of(program, "models/model.json"), b"{}")
    with pytest.raises(WeightsError, match="it has the entry"):
        open_graph(path, CPU)
