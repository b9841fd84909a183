"""Tables of whatever records lie in folders: methods (and defenses) by attacks, and how sure their differences are."""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from advpt.additions import complete
from advpt.evaluation.evaluator import WORST_CASE
from advpt.evaluation.record import AttackFacts, Record, Result
from advpt.evaluation.run_folder import identity
from advpt.results.exhibit import Table, TableRow
from advpt.results.values import Comparison, FilledTable, Value, compare, listed, summarize

Column = tuple[str, str]  # protocol, attack as it was asked for
TWIN = "CoOp, clean bank"  # where it stands beside a CoOp on augmented images
ORDER = ("ZeroshotCLIP", "CoOp", TWIN, "AdvPT")
PROTOCOL_ORDER = {"transfer": 0, "transfer-all": 1, "adaptive": 2}
ATTACK_WORDS = {
    "pgd": "PGD",
    "aa": "AutoAttack",
    "aa-rand": "AutoAttack for random defenses",
    "apgd-ce-t": "APGD-CE and APGD-T",
    "rap": "RAP",
    "files": "images made elsewhere",
    WORST_CASE: "worst case",
}
OBJECTIVE_WORDS = {"fkl": "feature KL", "ce": "cross-entropy", "kl": "KL", "margin": "margin", "logit": "logit",
                   "target": "targeted", "target-logit": "targeted logit"}  # fmt: skip


def attack_words(attack: AttackFacts) -> str:
    """``PGD-40 (feature KL) 8/255``; the exact form where a record has no more."""
    if not attack.name:
        return attack.label
    steps = f"-{attack.parameters['steps']}" if "steps" in attack.parameters else ""
    objective = OBJECTIVE_WORDS.get(attack.objective or "", attack.objective) if steps else ""
    words = f"{ATTACK_WORDS.get(attack.name, attack.name)}{steps}" + (f" ({objective})" if objective else "")
    return f"{words} {attack.eps:g}/255" + ("" if attack.norm == "linf" else f" {attack.norm}")


@dataclass(frozen=True)
class Group:
    """Comparable records: one data set, split, image list and backbone."""

    records: tuple[Record, ...]

    @property
    def methods(self) -> list[str]:
        """Names of the methods, known ones first."""
        names = {self.method(record.result) for record in self.records}
        first = [name for name in ORDER if name in names]
        return first + sorted(names - set(first), key=_natural)

    @functools.cached_property
    def _has_augmented_coop(self) -> bool:
        return any(r.trainer == "CoOp" and not _on_clean_bank(r) for r in (record.result for record in self.records))

    @functools.cached_property
    def _shots(self) -> dict[str, set[int]]:
        """By trainer, the numbers of shots among the records."""
        shots: dict[str, set[int]] = defaultdict(set)
        for record in self.records:
            shots[record.result.trainer].add(record.result.shots)
        return shots

    def method(self, result: Result) -> str:
        """The trainer of a record; a CoOp on a clean bank has a name of its own beside one on augmented images, and so
        has each number of shots where there are several."""
        name = result.trainer
        if name == "CoOp" and self._has_augmented_coop and _on_clean_bank(result):
            name = TWIN
        if len(self._shots[result.trainer]) > 1:
            name += f", {result.shots} shots" if result.shots > 0 else ", all images"
        return name

    def results(self, method: str) -> list[Result]:
        return [record.result for record in self.records if self.method(record.result) == method]

    def mixtures(self) -> list[str]:
        """Cells that stand for runs of several settings: a sentence for each method and seed."""
        configs: dict[tuple[str, int], list[dict[str, object]]] = defaultdict(list)
        for r in (record.result for record in self.records):
            config = identity(complete(r.config))
            if config not in (known := configs[self.method(r), r.seed]):
                known.append(config)
        sentences = []
        for (method, seed), kinds in sorted(configs.items()):
            names = sorted({k for c in kinds for k in c.keys() | kinds[0].keys() if c.get(k) != kinds[0].get(k)})
            if names:
                sentences.append(
                    f"{method}, seed {seed}: {len(kinds)} runs that differ in {', '.join(names[:6])} share a "
                    "row, and one of them is shown in each cell; name their folders one by one"
                )
        return sentences

    @property
    def defenses(self) -> list[str]:
        """The chains of defenses, "" for none first, in the order of their names."""
        return sorted({record.result.defense_name for record in self.records})

    @functools.cached_property
    def _attacks(self) -> dict[Column, AttackFacts]:
        results = (record.result for record in self.records)
        return {(r.protocol or "", r.attack.label): r.attack for r in results if r.attack is not None}

    @property
    def columns(self) -> list[Column]:
        """The threats, transfer before adaptive; in each by budget, AdvPT's own attack first, the worst case last."""

        def place(column: Column) -> tuple[object, ...]:
            attack = self._attacks[column]
            rank = PROTOCOL_ORDER.get(column[0], 9)
            return rank, attack.eps, attack.name == WORST_CASE, attack.objective != "fkl", attack.label

        return sorted(self._attacks, key=place)

    def heads(self) -> dict[Column | None, str]:
        """The words of each column; where two attacks have the same, their exact form beside them."""
        words = {column: f"{attack_words(self._attacks[column])}, {column[0]}" for column in self.columns}
        count = Counter(words.values())
        heads: dict[Column | None, str] = {None: "clean"}
        heads |= {column: text if count[text] == 1 else f"{text} [{column[1]}]" for column, text in words.items()}
        return heads

    def by_seed(self, method: str, column: Column | None, defense: str = "") -> dict[int, Record]:
        """The records of a method behind a defense ("": none), all of them (column None) or those of a threat."""
        return {
            record.result.seed: record
            for record in self.records
            if self.method(record.result) == method
            and record.result.defense_name == defense
            and (column is None or column == _column(record.result))
        }

    def value(self, method: str, column: Column | None, defense: str = "") -> Value:
        """The number of a cell; it says which seeds it has where they are not all of its row."""
        by_seed = self.by_seed(method, column, defense)
        if not by_seed:
            return Value("not run")
        some = by_seed.keys() != self.by_seed(method, None, defense).keys()
        notes = [f"seed{'s' if len(by_seed) > 1 else ''} {listed(by_seed.keys())}"] if some else []
        return summarize(by_seed, column is not None, notes)

    def table(self) -> FilledTable:
        """The table of the group, with AdvPT's differences to the other methods below it."""
        heads, rows, values = self.heads(), [], []
        for method, defense in itertools.product(self.methods, self.defenses):
            line = [self.value(method, column, defense) for column in heads]
            if line[0].runs is not None:
                shown = (defense or "none") if self.defenses != [""] else ""
                rows.append(TableRow("", method, shown, "", ""))
                values.append(line)
        exact = {head: column[1] for column, head in heads.items() if column is not None and column[1] != head}
        r = self.records[0].result
        title = f"{r.dataset}, {r.split} split, {r.clean.n} images, {r.backbone.name}"
        own = [f"{r.trainer}, seed {r.seed}: {line}" for x in self.records for r in [x.result] for line in r.warnings]
        warnings = [*dict.fromkeys(own), *self.mixtures()]
        table = Table(re.sub(r"\W+", "-", title), title, self.caption(), tuple(heads.values()), tuple(rows), exact)
        return FilledTable(table, values, self.comparisons(), warnings, bold=False)

    def caption(self) -> str:
        configs = [record.result.config for record in self.records if record.result.trainer == "AdvPT"]
        banks = sorted({str(config["BANK.ATTACK"]) for config in configs if "BANK.ATTACK" in config})
        text = f"AdvPT's training bank: {', '.join(banks)}." if banks else ""
        if self.defenses != [""]:
            text += " Transfer attackers do not know the defense, adaptive ones attack through it."
        return text.strip()

    def comparisons(self) -> list[Comparison]:
        """AdvPT against the other methods, without a defense."""
        comparisons = []
        ours = [method for method in self.methods if self.results(method)[0].trainer == "AdvPT"]
        for one, other in itertools.product(ours, self.methods):
            a, b = self.results(one), self.results(other)
            if other in ours or (any(r.is_trained for r in b) and {r.shots for r in a} != {r.shots for r in b}):
                continue
            for column, head in self.heads().items():
                interval = compare(self.value(one, column), self.value(other, column))
                if interval is not None:
                    comparisons.append(Comparison(f"{one} - {other}", head, interval))
        return comparisons


def groups(records: Sequence[Record]) -> list[Group]:
    """Records that may stand in one table."""
    by: dict[tuple[str, str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        r = record.result
        by[r.dataset, r.split, r.backbone.name, r.images.digest].append(record)
    return [Group(tuple(members)) for _, members in sorted(by.items())]


def _column(r: Result) -> Column | None:
    return (r.protocol or "", r.attack.label) if r.attack is not None else None


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts 4 shots before 16 shots."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.split(r"(\d+)", name)]


def _on_clean_bank(result: Result) -> bool:
    return bool(result.config.get("TRAINER.COOP.CLEAN_BANK"))
