"""Orders in which a loader visits its items."""

import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data.sampler import RandomSampler, Sampler, SequentialSampler

from dassl.utils import SettingError


def _indices_by(data_source: Any, field: str) -> dict[int, list[int]]:
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index, item in enumerate(data_source):
        groups[getattr(item, field)].append(index)
    return dict(groups)


class RandomDomainSampler(Sampler[int]):
    """Batches with equally many items from each of ``n_domain`` randomly chosen domains (all, if < 1).

    Its length comes from a trial run, which draws from the random generator, as upstream does.
    """

    def __init__(self, data_source: Any, batch_size: int, n_domain: int) -> None:
        self.data_source = data_source
        self.domain_dict = _indices_by(data_source, "domain")
        self.domains = list(self.domain_dict)
        n_domain = n_domain if n_domain > 0 else len(self.domains)
        if n_domain > len(self.domains):
            raise SettingError(f"N_DOMAIN={n_domain}, but the data has {len(self.domains)} domains")
        if batch_size % n_domain:
            raise SettingError(f"BATCH_SIZE={batch_size} must be divisible by the {n_domain} domains of a batch")
        self.n_domain = n_domain
        self.batch_size = batch_size
        self.n_img_per_domain = batch_size // n_domain
        smallest = min(len(indices) for indices in self.domain_dict.values())
        if smallest < self.n_img_per_domain:
            raise SettingError(f"a batch takes {self.n_img_per_domain} items per domain, the smallest has {smallest}")
        self.length = len(list(iter(self)))

    def __len__(self) -> int:
        return self.length

    def choose(self) -> list[int]:
        """The domains of the next batch."""
        return random.sample(self.domains, self.n_domain)

    def __iter__(self) -> Iterator[int]:
        """Batches until a domain of the last one has too few items left; no item comes twice."""
        share = self.n_img_per_domain
        left = {domain: list(indices) for domain, indices in self.domain_dict.items()}
        order: list[int] = []
        while True:
            chosen = self.choose()
            for domain in chosen:
                drawn = random.sample(left[domain], share)
                order += drawn
                taken = set(drawn)
                left[domain] = [index for index in left[domain] if index not in taken]
            if any(len(left[domain]) < share for domain in chosen):
                return iter(order)


class SeqDomainSampler(RandomDomainSampler):
    """Batches with equally many randomly drawn items from every domain, the domains in order."""

    def __init__(self, data_source: Any, batch_size: int) -> None:
        super().__init__(data_source, batch_size, 0)

    def choose(self) -> list[int]:
        return sorted(self.domains)


class RandomClassSampler(Sampler[int]):
    """Batches of ``batch_size // n_ins`` classes with ``n_ins`` items each. Its length as above."""

    def __init__(self, data_source: Any, batch_size: int, n_ins: int) -> None:
        if batch_size < n_ins:
            raise SettingError(f"BATCH_SIZE={batch_size} must be at least N_INS={n_ins}")
        self.data_source = data_source
        self.batch_size = batch_size
        self.n_ins = n_ins
        self.ncls_per_batch = batch_size // n_ins
        self.index_dic = _indices_by(data_source, "label")
        self.labels = list(self.index_dic)
        if len(self.labels) < self.ncls_per_batch:
            raise SettingError(f"a batch needs {self.ncls_per_batch} classes, the data has {len(self.labels)}")
        self.length = len(list(iter(self)))

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        packs: dict[int, list[list[int]]] = {}
        for label, indices in self.index_dic.items():
            pool = list(indices)
            if len(pool) < self.n_ins:
                pool = np.random.choice(pool, size=self.n_ins, replace=True).tolist()
            random.shuffle(pool)
            full = len(pool) - len(pool) % self.n_ins
            packs[label] = [pool[i : i + self.n_ins] for i in range(0, full, self.n_ins)]
        open_labels = list(self.labels)
        order: list[int] = []
        while len(open_labels) >= self.ncls_per_batch:
            for label in random.sample(open_labels, self.ncls_per_batch):
                order += packs[label].pop(0)
                if not packs[label]:
                    open_labels.remove(label)
        return iter(order)


def build_sampler(
    sampler_type: str,
    cfg: Any = None,
    data_source: Any = None,
    batch_size: int = 32,
    n_domain: int = 0,
    n_ins: int = 16,
) -> Sampler[int]:
    """Make a sampler by name; a ValueError for an unknown one."""
    if sampler_type == "RandomSampler":
        return RandomSampler(data_source)
    if sampler_type == "SequentialSampler":
        return SequentialSampler(data_source)
    if sampler_type == "RandomDomainSampler":
        return RandomDomainSampler(data_source, batch_size, n_domain)
    if sampler_type == "SeqDomainSampler":
        return SeqDomainSampler(data_source, batch_size)
    if sampler_type == "RandomClassSampler":
        return RandomClassSampler(data_source, batch_size, n_ins)
    raise ValueError(
        f"Unknown sampler type: {sampler_type}; known: RandomSampler, SequentialSampler, "
        "RandomDomainSampler, SeqDomainSampler, RandomClassSampler"
    )
