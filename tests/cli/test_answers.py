"""Forms of the answers."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest

from advpt.cli.answers import Csv, JsonLines, Row, Table, visible, write
from advpt.errors import StorageError
from advpt.prediction import Prediction

ODD = 'a,"b"\n\x1b[31m☃.png'
CLEAN = Prediction(ODD, "naïve café", 0.8751, "owl", 0.1)
OTHER = Prediction(ODD, "owl", 0.5, "sea", 0.25)
PLAIN, ATTACKED = Row(CLEAN), Row(CLEAN, OTHER)
SAVED = Row(CLEAN, OTHER, CLEAN, "c.png", "a.png")


def test_a_table_has_one_line_for_each_image(capsys):
    table = Table()
    table.add([PLAIN, Row(Prediction("x", "only", 1.0))])
    assert capsys.readouterr().out == ""
    table.close()
    heads, _, first, second = capsys.readouterr().out.splitlines()
    assert heads.split() == ["image", "label", "confidence", "runner-up", "confidence"]
    assert r'a,"b"\n\x1b[31m☃.png' in first and first.split()[-6:] == ["café", "87.5", "%", "owl", "10.0", "%"]
    assert second.split() == ["x", "only", "100.0", "%"]
    Table().close()
    assert capsys.readouterr().out == ""


def test_a_table_has_columns_for_what_was_asked(capsys):
    for rows, more in (([ATTACKED], "attacked confidence"), ([SAVED], "attacked confidence as saved confidence")):
        table = Table()
        table.add(rows)
        table.close()
        heads, _, line = capsys.readouterr().out.splitlines()
        assert " ".join(heads.split()).endswith(f"runner-up confidence {more}")
        assert "owl 50.0 %" in " ".join(line.split())
    assert " ".join(line.split()).endswith("naïve café 87.5 %")


def test_json_is_one_object_a_line_whatever_the_encoding(capsys, monkeypatch):
    JsonLines().add([PLAIN, SAVED])
    first, second = capsys.readouterr().out.splitlines()
    assert "☃" in first and json.loads(first) == {
        "image": ODD, "label": "naïve café", "confidence": 0.8751, "runner_up": "owl", "runner_up_confidence": 0.1
    }  # fmt: skip
    assert json.loads(second)["attacked_label"] == "owl" and json.loads(second)["saved_confidence"] == 0.8751
    assert json.loads(second)["clean_file"] == "c.png" and "attacked_image" not in second
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    JsonLines().add([PLAIN])
    assert json.loads(ascii_only.buffer.getvalue())["image"] == ODD


@pytest.mark.parametrize("row", (PLAIN, ATTACKED, SAVED), ids=("plain", "attacked", "saved"))
def test_csv_is_read_back(row, capsys):
    out = Csv(attacked=row.attacked is not None, saved=row.saved is not None)
    out.add([row, row])
    out.close()
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert len(lines) == 2 and lines[0] == {name: str(value) for name, value in row.fields().items()}


def test_what_an_encoding_lacks_is_escaped(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    write("café ☃\n")
    assert out.buffer.getvalue() == b"caf\\xe9 \\u2603\n"


def test_letters_that_are_not_to_be_seen():
    assert visible("a b\tc\r\u202e☃\udce9") == r"a b\tc\r\u202e☃\udce9"


def test_a_full_disk_is_a_sentence(monkeypatch):
    with Path("/dev/full").open("w") as full:  # closing it writes once more what is left, as Python does at its end
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(StorageError, match="standard output could not be written: no space left on device; free"):
            write("x" * 99)


def test_a_closed_pipe_is_left_to_the_command_line(monkeypatch):
    class Closed(io.StringIO):
        encoding = "utf-8"

        def flush(self):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(BrokenPipeError) as caught:
        write("x")
    assert not isinstance(caught.value, StorageError)
