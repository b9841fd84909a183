"""Example images: which runs', in which words, and what is wrong with others."""

from __future__ import annotations

import json

from advpt.results import examples as module
from advpt.results.examples import examples
from advpt.results.index import RecordIndex
from tests.helpers.reports import NASTY, PGD, Links, kinds, put

ATTACK = {"spec": PGD.attack, "name": "pgd", "objective": "fkl", "steps": 40, "eps": 16.0}


def keep(folder, record: str, **more) -> None:
    """Pictures of a run, one of a class with a hostile name."""
    (folder / "pictures").mkdir(exist_ok=True)
    files = {kind: f"../pictures/00-{kind}.png" for kind in ("clean", "attacked", "change")}
    for kind in ("clean", "attacked"):
        (folder / "pictures" / f"00-{kind}.png").write_bytes(b"\x89PNG" + bytes(12) + (99).to_bytes(4))
    said = {"hand": {"clean": NASTY, "attacked": "dog"}, "learned": {"clean": "cat", "attacked": NASTY}}
    picture = {"id": "a", "label": NASTY, "files": files, "said": said}
    about = {"record": record, "attack": "pgd", "protocol": "transfer", "magnified": 8.0, "pictures": [picture]}
    (folder / "pictures" / "pictures.json").write_text(json.dumps(about | more))


def record_of(small, name: str) -> str:
    return next(iter(RecordIndex(small.runs).of(small.runs[name]).values())).id


def test_images_stand_side_by_side_with_what_each_prompt_takes_them_for(small):
    put(small.top / "adv1", 81, 51, attack=ATTACK)
    keep(small.top / "adv1", record_of(small, "adv1"))
    assert kinds(small.report()) == []
    text = small.page()
    page = Links(text)
    assert (
        "script" not in page.tags
        and text.count("PGD-40 (feature KL) 16/255, transfer: the attacker does not know") == 1
    )
    shown = text[text.index('id="examples"') :]
    nasty = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&#34;dogs&#34;"
    assert f"hand-written prompt: {nasty} ✓ → dog ✗" in shown and f"tuned prompt: cat ✗ → {nasty} ✓" in shown
    assert f'<img alt="image of {nasty}" src="data:image/png;base64,iVBORw' in shown
    assert f'alt="the same image of {nasty}, attacked"' in shown and "<figcaption>clean</figcaption>" in shown
    assert "change ×" not in shown, "a file that is gone is left out"


def test_what_is_wrong_with_images_is_noted(small):
    keep(small.top / "adv1", record_of(small, "adv1"), magnified="much")
    (note,) = small.report().notes
    assert note.kind == "refused" and note.text.startswith("adv1/pictures/pictures.json is not what a run leaves")
    assert "magnified is 'much', expected a number" in note.text
    keep(small.top / "adv1", "0" * 64)
    (note,) = small.report().notes
    assert note.kind == "missing" and "belong to a record that is not there any more" in note.text
    assert 'id="examples"' not in small.page()


def test_one_run_of_a_data_set_is_shown_a_trained_one_first(small):
    for name in ("zs", "adv2", "adv1"):
        keep(small.top / name, record_of(small, name))
    shown = examples(RecordIndex(small.runs))
    assert [run.name for run in shown.runs] == ["OxfordPets, ViT-B/16, AdvPT, pets, seed 1"] and shown.left_out == 2
    small.report()
    assert "of 2 other runs" in small.page()


def test_no_more_than_a_few_data_sets_are_shown(small, monkeypatch):
    monkeypatch.setattr(module, "MOST", 1)
    put(small.top / "adv2", 82, 52, seed=2, dataset="DTD")
    for name in ("adv1", "adv2"):
        keep(small.top / name, next(r.id for r in RecordIndex(small.runs).of(small.runs[name]).values()))
    shown = examples(RecordIndex(small.runs))
    assert len(shown.runs) == 1 and shown.left_out == 1


def test_zero_shot_clip_has_one_prompt(small):
    keep(small.top / "zs", record_of(small, "zs"))
    ((example,),) = [run.examples for run in examples(RecordIndex(small.runs)).runs]
    assert [answer.prompt for answer in example.answers] == ["hand-written prompt"]
