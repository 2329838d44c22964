import importlib.util
from pathlib import Path

from effdet.exporting.labels import write_labels

CLIENT = Path(__file__).resolve().parents[2] / "examples" / "coral_detect.py"


def test_a_label_file_has_the_label_and_the_name_of_each_class(tmp_path):
    path = write_labels(tmp_path / "best-coral.tflite", ("person", "2 euro", "traffic\nlight"))
    assert path == tmp_path / "best-coral.labels.txt"
    assert path.read_text() == "0 person\n1 2 euro\n2 traffic light\n"


def test_frigate_and_coral_read_the_names_as_they_are(tmp_path):
    """Both split a line whose first word is a number at the first space, as they document."""
    lines = write_labels(tmp_path / "best.tflite", ("2 euro", "cent")).read_text().splitlines()
    assert dict(line.split(" ", maxsplit=1) for line in lines) == {"0": "2 euro", "1": "cent"}


def test_the_example_client_reads_a_label_file(tmp_path):
    spec = importlib.util.spec_from_file_location("coral_detect", CLIENT)
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    assert client.read_labels(write_labels(tmp_path / "best.tflite", ("person", "2 euro"))) == {
        0: "person",
        1: "2 euro",
    }
