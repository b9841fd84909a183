"""Tables of whatever records lie in folders: methods (and defenses) by attacks, and how sure their differences are."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from advpt.additions import complete
from advpt.evaluation.evaluator import WORST_CASE
from advpt.evaluation.record import AttackFacts, Record, Result
from advpt.evaluation.run_folder import identity
from advpt.results.exhibit import Condition, Table, TableRow
from advpt.results.terms import apart_from_clip
from advpt.results.values import Comparison, FilledTable, Value, compare, listed, summarize
from advpt.schema import JsonObject

Column = tuple[str, str]  # protocol, attack as it was asked for
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
    """Comparable records: one data set, split, image list and backbone.

    Args:
        first: methods that come before the others. ours: the trainer that is compared with all others.
    """

    records: tuple[Record, ...]
    first: tuple[str, ...] = ()
    ours: str = ""

    @property
    def place(self) -> tuple[str, str, str]:
        """Data set, split and backbone: groups that share them differ in the images alone."""
        r = self.records[0].result
        return r.dataset, f"{r.split} split", r.backbone.name

    @cached_property
    def by_method(self) -> dict[str, list[Record]]:
        """The records of each method; the name is its trainer's. A method on a clean bank has a name of its own beside
        the same on augmented images, and so has each number of shots where there are several."""
        augmented = {r.result.trainer for r in self.records if not _on_clean_bank(r.result)}
        shots: dict[str, set[int]] = defaultdict(set)
        for record in self.records:
            shots[record.result.trainer].add(record.result.shots)
        methods: dict[str, list[Record]] = defaultdict(list)
        for record in self.records:
            r = record.result
            name = r.trainer + (", clean bank" if r.trainer in augmented and _on_clean_bank(r) else "")
            if len(shots[r.trainer]) > 1:
                name += f", {r.shots} shots" if r.shots > 0 else ", all images"
            methods[name].append(record)
        others = sorted(methods.keys() - set(self.first), key=_natural)
        return {name: methods[name] for name in (*self.first, *others) if name in methods}

    def mixtures(self) -> list[str]:
        """Cells that stand for runs of several settings: a sentence for each method and seed."""
        configs: dict[tuple[str, int], list[JsonObject]] = defaultdict(list)
        for method, records in self.by_method.items():
            for record in records:
                config = identity(complete(record.result.config))
                if config not in (known := configs[method, record.result.seed]):
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

    @cached_property
    def defenses(self) -> list[str]:
        """The chains of defenses, "" for none first, in the order of their names."""
        return sorted({record.result.defense_name for record in self.records})

    @cached_property
    def heads(self) -> dict[Column | None, str]:
        """The words of each column; where two attacks have the same, their exact form beside them. Transfer comes
        before adaptive; in each by budget, feature KL first, the worst case last."""
        results = (record.result for record in self.records)
        attacks = {column: r.attack for r in results if r.attack is not None and (column := _column(r)) is not None}

        def place(column: Column) -> tuple[object, ...]:
            attack = attacks[column]
            rank = PROTOCOL_ORDER.get(column[0], 9)
            return rank, attack.eps, attack.name == WORST_CASE, attack.objective != "fkl", attack.label

        words = {column: f"{attack_words(attacks[column])}, {column[0]}" for column in sorted(attacks, key=place)}
        count = Counter(words.values())
        heads: dict[Column | None, str] = {None: "clean"}
        return heads | {c: text if count[text] == 1 else f"{text} [{c[1]}]" for c, text in words.items()}

    def condition(self, column: Column | None) -> Condition:
        """What the numbers of a column were measured under."""
        results = [record.result for record in self.records if column is not None and _column(record.result) == column]
        if column is None or not results or results[0].attack is None:
            return Condition("", "clean")
        words = self.heads[column].removesuffix(f", {column[0]}")
        return Condition(column[0], words, apart_from_clip(results[0].attacker_knows))

    def by_seed(self, method: str, column: Column | None, defense: str = "") -> dict[int, Record]:
        """The records of a method behind a defense ("": none), all of them (column None) or those of a threat."""
        return {
            record.result.seed: record
            for record in self.by_method[method]
            if record.result.defense_name == defense and column in (None, _column(record.result))
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
        """The table of the group, with our differences to the other methods below it."""
        rows, values = [], []
        for method, defense in itertools.product(self.by_method, self.defenses):
            line = [self.value(method, column, defense) for column in self.heads]
            if line[0].runs is not None:
                shown = (defense or "none") if self.defenses != [""] else ""
                rows.append(TableRow("", method, shown, "", ""))
                values.append(line)
        exact = {head: column[1] for column, head in self.heads.items() if column is not None and column[1] != head}
        r = self.records[0].result
        title = f"{r.dataset}, {r.split} split, {r.clean.n} images, {r.backbone.name}"
        own = [f"{r.trainer}, seed {r.seed}: {line}" for x in self.records for r in [x.result] for line in r.warnings]
        heads, warnings = tuple(self.heads.values()), [*dict.fromkeys(own), *self.mixtures()]
        name, conditions = re.sub(r"\W+", "-", title), {head: self.condition(c) for c, head in self.heads.items()}
        table = Table(name, title, self.caption(), heads, tuple(rows), exact, conditions)
        return FilledTable(table, values, self.comparisons(), warnings, bold=False)

    def caption(self) -> str:
        configs = [record.result.config for record in self.records if record.result.trainer == self.ours]
        banks = sorted({str(config["BANK.ATTACK"]) for config in configs if "BANK.ATTACK" in config})
        text = f"{self.ours}'s training bank: {', '.join(banks)}." if banks else ""
        if self.defenses != [""]:
            text += " Transfer attackers do not know the defense, adaptive ones attack through it."
        return text.strip()

    def comparisons(self) -> list[Comparison]:
        """Our method against the others, without a defense."""
        comparisons = []
        results = {method: [record.result for record in records] for method, records in self.by_method.items()}
        ours = [method for method, of_method in results.items() if of_method[0].trainer == self.ours]
        for one, other in itertools.product(ours, results):
            shots = [{r.shots for r in results[method]} for method in (one, other)]
            if other in ours or (any(r.is_trained for r in results[other]) and shots[0] != shots[1]):
                continue
            for column, head in self.heads.items():
                interval = compare(self.value(one, column), self.value(other, column))
                if interval is not None:
                    comparisons.append(Comparison(f"{one} - {other}", head, interval))
        return comparisons


def groups(records: Sequence[Record], first: tuple[str, ...] = (), ours: str = "") -> list[Group]:
    """Records that may stand in one table; ``first`` and ``ours`` as of :class:`Group`."""
    by: dict[tuple[str, str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        r = record.result
        by[r.dataset, r.split, r.backbone.name, r.images.digest].append(record)
    return [Group(tuple(members), first, ours) for _, members in sorted(by.items())]


def _column(r: Result) -> Column | None:
    return (r.protocol or "", r.attack.label) if r.attack is not None else None


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts 4 shots before 16 shots."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.split(r"(\d+)", name)]


def _on_clean_bank(r: Result) -> bool:
    return bool(r.config.get(f"TRAINER.{r.trainer.upper()}.CLEAN_BANK"))
