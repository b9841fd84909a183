"""The verb ``doctor``."""

from __future__ import annotations

from advpt.cli import main


def test_doctor_says_what_is_there_and_which_setting_decided(capsys, tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.setenv("ADVPT_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--chs20--fare2-clip").mkdir()
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path} (from $ADVPT_DATA)" in said and "digits" in said and "dassl       0.6.3+lite" in said
    assert f"{tmp_path} (from $HF_HUB_CACHE)\n            chs20/fare2-clip\n" in said
    assert main(["doctor", "--root", "/nowhere"]) == 0
    assert "/nowhere (from --root): not there yet" in capsys.readouterr().out
