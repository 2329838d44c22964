import csv
import json

from effdet.diagnosis.review.files import report_of, summary, write_rows


def test_json_and_csv_hold_the_same_rows(table, rows, tmp_path):
    report = report_of(rows, {"data": "scenes", "splits": {"train": table.counts()}, "notes": []})
    write_rows(tmp_path, report)
    content = json.loads((tmp_path / "review.json").read_text())
    assert [each["rank"] for each in content["rows"]] == [1, 2, 3]
    with (tmp_path / "review.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for line, each in zip(lines, content["rows"], strict=True):
        assert [float(line[side]) for side in ("x1", "y1", "x2", "y2")] == each["box"]
        for name in ("kind", "file_name", "reason"):
            assert line[name] == each[name]
        assert line["given"] == (each["given"] or "")


def test_the_summary_counts_rows_that_are_more_likely_errors_than_not(rows):
    worth = summary(rows)
    assert (worth["rows"], worth["images"], worth["expected_errors"]) == (2, 2, 1.6)
    assert worth["kinds"]["misnamed"] == {"rows": 1, "expected_errors": 0.7}
    assert worth["kinds"]["spurious"] == {"rows": 0, "expected_errors": 0}
    assert summary([])["rows"] == 0
