"""The verb ``sweep``."""

from __future__ import annotations

from advpt.cli import main


def test_the_whole_paper_on_a_cluster(capsys):
    assert main(["sweep", "plan", "--cluster", "8xH200"]) == 0
    printed = capsys.readouterr().out
    assert "runs to do" in printed and "imagenet" in printed and "vit_l14" in printed
    assert "8xH200: times are of 8 workers like the one that recorded them" in printed
    assert main(["sweep", "plan", "pets", "--cluster", "8"]) == 2
