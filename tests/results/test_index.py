"""Records on disk: missing, changed, copied and orphaned ones are said."""

from __future__ import annotations

import json
import os
import shutil

from tests.helpers.reports import kinds, put


def test_a_deleted_record_is_missing_and_said_so(small):
    for path in (small.top / "zs" / "records").glob("*.json"):
        path.unlink()
    report = small.report()
    assert small.cells()["vanilla", "pgd40"]["ours"] == "missing" == small.cells()["vanilla", "clean"]["ours"]
    assert kinds(report)[0] == "missing" and "ZeroshotCLIP, pets is done, but its record" in report.notes[0].text
    assert "run it again" in (small.top / "report" / "index.html").read_text()


def test_a_record_of_another_schema_is_refused_and_said_so(small):
    (path,) = (small.top / "zs" / "records").glob("*.json")
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"schema": 99}))
    report = small.report()
    assert small.cells()["vanilla", "pgd40"]["ours"] == "refused"
    assert kinds(report) == ["refused"] and "schema 99; this version reads 1" in report.notes[0].text


def test_a_changed_record_is_refused(small):
    (path,) = (small.top / "zs" / "records").glob("*.json")
    path.write_text(path.read_text().replace('"accuracy": 60.0', '"accuracy": 99.0'))
    assert kinds(small.report()) == ["refused"] and small.cells()["vanilla", "clean"]["ours"] == "refused"


def test_of_two_records_of_one_thing_the_newest_counts_with_a_note(small):
    (path,) = (small.top / "zs" / "records").glob("*.json")
    shutil.copy(path, path.with_name("old copy.json"))
    put(small.top / "zs", 70, 30, trainer="ZeroshotCLIP", observed={"finished": 2.0})
    report = small.report()
    assert small.cells()["vanilla", "pgd40"]["ours"] == "30.00" and kinds(report) == ["duplicate"]
    assert "with another result; the newest" in report.notes[0].text and "old copy.json" in report.notes[0].text


def test_a_copy_counts_once_and_is_noted(small):
    (path,) = (small.top / "zs" / "records").glob("*.json")
    shutil.copy(path, path.with_name("copy.json"))
    os.utime(path, (1, 1))
    report = small.report()
    assert small.cells()["vanilla", "pgd40"]["ours"] == "20.00" and "the same result" in report.notes[0].text


def test_records_of_nobody_are_noted_and_not_used(small):
    put(small.top / "elsewhere", 1, 1)
    report = small.report()
    assert kinds(report) == ["stray"] and "elsewhere/records" in report.notes[0].text
