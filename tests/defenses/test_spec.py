"""The text form of defenses: what it means, and what is said of mistakes."""

from __future__ import annotations

import pytest

from advpt.defenses import parse, parse_all
from advpt.defenses.rescale import RandomRescale
from advpt.defenses.super_resolution import SuperResolution
from advpt.errors import ConfigError


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("rescale", "rescale:iclr/low=1.0/canvas=1.107/fill=grey/interp=nearest/flip=False"),
        ("super", "super:advpt/sigma=0.02/space=rgb/sr=none/weights="),
        ("super:mustafa/sigma=0.03", "super:mustafa/sigma=0.03/space=channel/sr=edsr/weights="),
        ("diffpure:sde/t=75", "diffpure:sde/t=75/sampler=sde/stride=1/dtype=fp32/weights="),
    ],
)
def test_short_forms_expand(short, full):
    spec = parse(short)
    assert spec.expanded == full
    assert parse(full) == spec == parse(str(spec))


def test_chains_and_repeats():
    chain = parse("super:advpt + rescale")
    assert str(chain) == "super:advpt+rescale:iclr" and chain.draws_noise and not chain.costly
    assert parse("rescale+diffpure").costly
    assert [str(s) for s in parse_all(["rescale", "rescale:iclr", "super"])] == ["rescale:iclr", "super:advpt"]
    assert [type(s) for s in chain.build().stages] == [SuperResolution, RandomRescale]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reskale", "Did you mean 'rescale'"),
        ("super:advtp", "Did you mean 'advpt'"),
        ("super/sigm=0.1", "Did you mean 'sigma'"),
        ("super/sigma=much", "expected a finite number"),
        ("super/sigma=20", "expected 0 to 1"),
        ("super/sr=rcan", "unknown super-resolution network"),
        ("rescale/flip=maybe", "expected True or False"),
        ("rescale/fill=pink", "unknown fill"),
        ("rescale/low=2", "low <= canvas"),
        ("diffpure/t=1001", "expected 0 to 1000"),
        ("diffpure/t=1.5", "expected a whole number"),
        ("diffpure/dtype=int8", "unknown dtype"),
        ("diffpure/sampler=ddim", "unknown sampler"),
        ("super++rescale", "not of the form"),
        ("", "not of the form"),
        ("super/sigma", "OPTION=VALUE"),
    ],
)
def test_mistakes_are_explained(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text)
