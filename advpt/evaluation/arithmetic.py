"""The numbers of a record that follow from others of it, or from the records beside it, derived anew."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from advpt.attacks.spec import is_files, parse
from advpt.errors import AdvPTError
from advpt.evaluation.evaluator import WORST_CASE, contradictions, worst_of
from advpt.evaluation.findings import CONTRADICTIONS, Finding
from advpt.evaluation.flags import BATCH, flags
from advpt.evaluation.intervals import wilson
from advpt.evaluation.protocols import threats
from advpt.evaluation.record import Accuracy, AttackFacts, CleanAccuracy, PartAccuracy, Record, Result, RobustAccuracy
from advpt.evaluation.test_time import KNOWING
from advpt.files import digest
from advpt.schema import Json, from_json, to_json

CLOSE = 1e-3  # percent, or 1/255: sums are of 32 or 64 bits
OUTCOMES = "its outcome bits give"
DRAWS = "its draws give"
OF_CONFIG = {"trainer": "TRAINER.NAME", "seed": "SEED", "shots": "DATASET.NUM_SHOTS"}  # fields that settings say too


def check(record: Record, siblings: Sequence[Record] = ()) -> list[Finding]:
    """What is not as other values of the record say; ``siblings``: the records beside it in its folder."""
    result = record.result
    findings = [*_accuracy("clean", result.clean), *_settings(result)]
    if record.path is not None and record.path.stem != record.name:
        findings.append(Finding("its file's name", record.path.stem, record.name, "its result says"))
    if result.images.n != result.clean.n:
        findings.append(Finding("images.n", result.images.n, result.clean.n, "clean.n is"))
    if result.robust is not None and result.attack is not None:
        findings += _accuracy("robust", result.robust)
        findings += [*_robust(result, result.robust), *_parts(result.robust), *_attack(result, result.attack)]
    findings += [*_words(result), *_beside(record, siblings)]
    return findings


def _differ(recorded: Json, derived: Json) -> bool:
    """Whether two numbers, or lists of numbers, are further apart than rounding takes them."""
    if isinstance(recorded, int | float) and isinstance(derived, int | float):
        return not math.isclose(recorded, derived, rel_tol=1e-9, abs_tol=CLOSE)
    if isinstance(recorded, list | tuple) and isinstance(derived, list | tuple):
        return len(recorded) != len(derived) or any(map(_differ, recorded, derived))
    return bool(recorded != derived)


def _compared(prefix: str, part: object, derived: dict[str, Json], source: str) -> Iterator[Finding]:
    for name, value in derived.items():
        if _differ(recorded := getattr(part, name), value):
            yield Finding(f"{prefix}.{name}", to_json(recorded), to_json(value), source)


def _accuracy(prefix: str, part: CleanAccuracy) -> Iterator[Finding]:
    outcomes = part.outcomes()
    hits, n = int(outcomes.sum()), part.n
    again = Accuracy.of(torch.from_numpy(outcomes))
    if again.outcome != part.outcome:
        yield Finding(f"{prefix}.outcome", part.outcome, again.outcome, f"{n} bits and nothing else are")
    draws = part.defense_seeds
    if not draws:
        yield from _compared(prefix, part, {"correct": hits, "accuracy": again.accuracy, "deviation": None}, OUTCOMES)
        yield from _compared(prefix, part, {"interval95": again.interval95}, OUTCOMES)
        return
    accuracies = [draw.accuracy for draw in draws]
    mean = float(np.mean(accuracies))
    correct = round(mean * n / 100)
    numbers: dict[str, Json] = {"accuracy": mean, "correct": correct, "interval95": wilson(correct, n)}
    numbers["deviation"] = float(np.std(accuracies, ddof=1)) if len(draws) > 1 else None
    yield from _compared(prefix, part, numbers, DRAWS)
    yield from _compared(f"{prefix}.defense_seeds[0]", draws[0], {"accuracy": again.accuracy}, OUTCOMES)
    if draws[0].bank != part.bank:
        yield Finding(f"{prefix}.defense_seeds[0].bank", draws[0].bank, part.bank, f"{prefix}.bank is")
    for i, draw in enumerate(draws):
        count = draw.accuracy * n / 100
        if _differ(count, round(count)):
            yield Finding(f"{prefix}.defense_seeds[{i}].accuracy", draw.accuracy, n, "no share of a number of images:")


def _robust(result: Result, robust: RobustAccuracy) -> Iterator[Finding]:
    clean, n, draws = result.clean, robust.n, bool(robust.defense_seeds)
    if n != clean.n:
        yield Finding("robust.n", n, clean.n, "clean.n is")
        return
    if robust.lost is not None and not draws:
        lost = 100 * float((clean.outcomes() & ~robust.outcomes()).mean()) if n else 0.0
        yield from _compared("robust", robust, {"lost": lost}, OUTCOMES)
    left = robust.untouched * n / 100
    if _differ(left, round(left)):
        yield Finding("robust.untouched", robust.untouched, n, "no share of a number of images:")
    if robust.stages is not None and sum(robust.stages.values()) != n:
        yield Finding("robust.stages", dict(robust.stages), n, "the sum of its stages should be")
    if (on := robust.on_perturbed) is not None:
        changed = n - round(left)
        if on.n != changed:
            yield Finding("robust.on_perturbed.n", on.n, changed, "robust.untouched leaves")
        if on.correct > on.n:
            yield Finding("robust.on_perturbed.correct", on.correct, on.n, "not a count of its images, which are")
            return
        numbers: dict[str, Json] = {"interval95": wilson(on.correct, on.n)}
        if not draws:
            numbers["accuracy"] = 100 * on.correct / on.n if on.n else 0.0
            if not 0 <= robust.correct - on.correct <= n - on.n:
                among = f"{robust.correct} of {n} are correct, {n - on.n} of them untouched: there cannot be"
                yield Finding("robust.on_perturbed.correct", on.correct, on.correct, among)
        yield from _compared("robust.on_perturbed", on, numbers, "its own correct and n give")
    largest, attack = robust.largest_linf, result.attack
    if largest is not None and attack is not None:
        if attack.norm == "linf" and attack.name != "files" and largest > attack.eps + CLOSE:
            yield Finding("robust.largest_linf", largest, attack.eps, "more than the budget, which is")
        if n and (largest == 0) != (round(left) == n):
            yield Finding("robust.largest_linf", largest, robust.untouched, "which contradicts robust.untouched,")


def _parts(robust: RobustAccuracy) -> Iterator[Finding]:
    """The attacks of which the number is the worst: their counts fit each other, and the outcome."""
    draws, most, remain = bool(robust.defense_seeds), robust.n, None
    for i, part in enumerate(robust.parts):
        name = f"robust.parts[{i}]"
        if part.n and _differ_share(part):
            yield Finding(f"{name}.accuracy", part.accuracy, 100 * part.correct / part.n, "its own correct and n give")
        if not 0 <= part.correct <= part.n:
            yield Finding(f"{name}.correct", part.correct, part.n, "not a count of its images, which are")
        if not part.left and part.n != robust.n:
            yield Finding(f"{name}.n", part.n, robust.n, "it attacks all images, which are")
        if part.left and not draws and remain is not None and part.n != remain:
            yield Finding(f"{name}.n", part.n, remain, "the parts before leave")
        if part.left and part.n > most and not draws:
            yield Finding(f"{name}.n", part.n, most, "the parts before leave at most")
        if not draws:
            most = min(most, round(part.correct))
            remain = round(part.correct) if part.left else None
    if robust.parts and not draws:
        if remain is not None and robust.correct != remain:
            yield Finding("robust.correct", robust.correct, remain, "its last part leaves")
        elif robust.correct > most:
            yield Finding("robust.correct", robust.correct, most, "the strongest of its parts leaves")


def _differ_share(part: PartAccuracy) -> bool:
    """``correct`` is rounded to four digits."""
    return abs(part.accuracy - 100 * part.correct / part.n) > CLOSE + 100 * 1e-4 / part.n


def _settings(result: Result) -> Iterator[Finding]:
    config = result.config
    if result.config_digest and (made := digest(config)) != result.config_digest:
        yield Finding("config_digest", result.config_digest, made, "its config gives")
    for name, leaf in OF_CONFIG.items():
        if leaf in config and getattr(result, name) != config[leaf]:
            yield Finding(name, getattr(result, name), config[leaf], f"its {leaf} is")
    if result.attack is not None and result.attack.seed != config.get("EVAL.SEED", result.attack.seed):
        yield Finding("attack.seed", result.attack.seed, config["EVAL.SEED"], "its EVAL.SEED is")
    subset = result.images.n if result.images.part else config.get("EVAL.SUBSET", result.images.subset)
    if result.images.subset != subset:
        yield Finding("images.subset", result.images.subset, subset, "its images and EVAL.SUBSET say")


def _attack(result: Result, attack: AttackFacts) -> Iterator[Finding]:
    """Its fields are those of its short form, and its settings ask for it."""
    if (attack.name == "files") != is_files(attack.spec):
        yield Finding("attack.name", attack.name, attack.spec, "its short form is")
    if is_files(attack.spec):
        return
    if attack.name == WORST_CASE:
        alike = [each for each in _asked(result) or () if each[0] == result.protocol and each[2:] == _budget(attack)]
        if alike and len(alike) != len(attack.attacks):
            yield Finding("attack.attacks", list(attack.attacks), [each[1] for each in alike], "its settings ask for")
        return
    try:
        parameters = parse(attack.spec).build().parameters()
    except AdvPTError as error:
        yield Finding("attack.spec", attack.spec, str(error), "which is no attack:")
        return
    own = {"spec": attack.spec, "asked": attack.asked, "seed": attack.seed}
    expected = to_json(from_json(AttackFacts, parameters | own))
    recorded = to_json(attack)
    for name in sorted(recorded.keys() | expected.keys()):
        if recorded.get(name) != expected.get(name):
            text = f"its short form {attack.spec} means"
            yield Finding(f"attack.{name}", recorded.get(name), expected.get(name), text)
    asked = _asked(result)
    if asked is not None and (result.protocol, attack.label) not in {each[:2] for each in asked}:
        given = sorted({f"{label} under {protocol}" for protocol, label, *_ in asked})
        label = f"{attack.label} under {result.protocol}"
        yield Finding("attack.asked", label, given, "EVAL.ATTACKS and EVAL.PROTOCOLS of its config ask for")


def _budget(attack: AttackFacts) -> tuple[str, float]:
    return attack.norm, attack.eps


def _asked(result: Result) -> list[tuple[str, str, str, float]] | None:
    """Protocol, attack, norm and budget of every threat that the settings ask for; None where they do not say, or ask
    for images made elsewhere."""
    texts, protocols = (_texts(result.config.get(name)) for name in ("EVAL.ATTACKS", "EVAL.PROTOCOLS"))
    if texts is None or protocols is None or any(map(is_files, texts)):
        return None
    try:
        asked = threats(texts, protocols)
    except AdvPTError:
        return None
    return [(each.protocol, each.attack.label, each.attack.norm, each.attack.eps) for each in asked]


def _texts(value: Json) -> list[str] | None:
    """A list of texts; None for what is none."""
    texts = [each for each in value if isinstance(each, str)] if isinstance(value, list | tuple) else None
    return texts if texts is not None and len(texts) == len(value or ()) else None


def _words(result: Result) -> Iterator[Finding]:
    """Flags, note and warnings say what the numbers do."""
    expected = flags(result.clean, result.robust, BATCH in result.flags)
    if result.flags != expected:
        yield Finding("flags", list(result.flags), list(expected), "its numbers raise")
    if result.robust is None or result.attack is None:
        return
    if (words := worst_of(result.robust.parts)) and words not in result.note:
        yield Finding("note", result.note, words, "its parts say")
    sentences = contradictions(result.clean, result.robust, f"{result.protocol} {result.attack.spec}")
    recorded = [line for line in result.warnings if line.startswith(CONTRADICTIONS)]
    if sorted(recorded) != sorted(sentences):
        yield Finding("warnings", recorded, sentences, "its numbers give")


def _beside(record: Record, siblings: Sequence[Record]) -> Iterator[Finding]:
    """What the records of the same images, behind the same defenses, say."""
    result = record.result

    def row(other: Result) -> tuple[object, ...]:  # attackers who know a defense have banks of their own
        return other.defenses, other.images, other.prompt, other.config_digest, other.protocol in KNOWING

    others = [each for each in siblings if each.path != record.path and row(each.result) == row(result)]
    for other in others:
        mine, theirs = (to_json(each.result.clean) for each in (record, other))
        if different := [name for name in mine if mine[name] != theirs.get(name)]:
            name = different[0]
            yield Finding(f"clean.{name}", mine[name], theirs.get(name), f"the record {other.name} beside it has")
            break
    attack, robust = result.attack, result.robust
    if attack is None or robust is None or attack.name != WORST_CASE:
        return
    survived, compared = np.ones(robust.n, dtype=bool), set[str]()
    for other in others:
        theirs = other.result.robust
        if other.result.protocol != result.protocol or other.result.attack is None or theirs is None:
            continue
        if other.result.attack.spec in attack.attacks and theirs.n == robust.n:
            survived &= theirs.outcomes()
            compared.add(other.result.attack.spec)
    different_images = int((survived != robust.outcomes()).sum() if compared == set(attack.attacks) else
                           (robust.outcomes() & ~survived).sum())  # fmt: skip
    if different_images:
        yield Finding(
            text=f"robust.outcome: {different_images} of {robust.n} images are not the worst of the records of "
            f"{', '.join(sorted(compared))} beside it"
        )
