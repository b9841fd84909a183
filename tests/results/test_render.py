"""Tables as LaTeX."""

from __future__ import annotations

from advpt.results.render import latex_text


def test_latex_is_escaped_and_has_booktabs(small):
    small.report()
    text = (small.top / "report" / "tables" / "table1.tex").read_text()
    assert r"\toprule" in text and r"\textless{}script\textgreater{}" in text and r"\textbf{52.0}" in text
    assert latex_text("50%_a&b") == r"50\%\_a\&b"
