"""What is reproduced: the paper's data sets, backbones, attacks and defenses, and the demo's small stand-ins for
them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from advpt.errors import ConfigError, unknown_name

CONTEXTS = (1, 2, 4, 8, 16, 32, 50)


@dataclass(frozen=True)
class InputDefense:
    """A defense of Tables 2 and 3: its name in our tables, the chain, and the paper's name for the column whose numbers
    stand beside it, "" where the paper has no such defense."""

    name: str
    chain: str
    published: str = ""


@dataclass(frozen=True)
class ReproductionSetup:
    """Names are those of the yaml files; ``names`` maps them to the paper's. Attacks are in their short form.

    datasets: of Tables 1 to 5 and Figure 3; ``probed``: of Table 4. source, targets: of the domain shift.
    timed, timed_backbones: of the figures over wall-clock and over the number of context vectors.
    pgd, rap, aa: the paper's attackers, who do not know the learned prompt; ``adaptive``, ``aa_adaptive``: who do.
    budgets: of the curve over eps, in 1/255. together: one evaluation serves Tables 2 and 3.
    common: settings of every run. contexts: numbers of context vectors.
    peers: the attack, under both protocols, of the comparison with AdvPT's peers; peers_settings: of its runs;
    peers_bank: the attack of AdvPT's bank there, peers_attacks: the training attacks of the others, all at the budget
    of ``peers``. peers_words: what all prompts start as there, "" for each method's own start; peers_rates: learning
    rates.
    """

    name: str
    datasets: tuple[str, ...]
    probed: tuple[str, ...]
    source: str
    targets: tuple[str, ...]
    backbones: tuple[str, ...]
    timed: tuple[str, ...]
    timed_backbones: tuple[str, ...]
    names: Mapping[str, str]
    seeds: tuple[int, ...]
    pgd: str
    rap: str
    aa: str
    adaptive: str
    aa_adaptive: str
    bank: str
    budgets: tuple[str, ...]
    budget_steps: int
    defenses: tuple[InputDefense, ...]
    together: bool
    surrogate: str
    common: tuple[tuple[str, str], ...]
    contexts: tuple[int, ...]
    curve_every: Mapping[str, int]
    subset: int = 0
    defended_subset: int = 0
    clock_subset: int = 0
    clock_seeds: int = 0  # so many of the seeds for the figures over wall-clock, 0 = all
    peers: str = "pgd100-ce@4/a1"
    peers_bank: str = "pgd10-fkl@4"
    peers_attacks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    peers_settings: tuple[tuple[str, str], ...] = ()
    peers_words: str = ""
    peers_rates: Mapping[str, str] = dataclasses.field(default_factory=dict)
    peers_seeds: tuple[int, ...] = ()  # where the rates were chosen on one of `seeds`
    tuned: tuple[str, ...] = ()  # data sets and backbones of the comparison with TAPT (advpt/jobs/tapt.py)
    tuned_backbones: tuple[str, ...] = ()
    said: Mapping[str, str] = dataclasses.field(default_factory=dict)  # what captions add, by exhibit

    def __hash__(self) -> int:
        return hash(self.name)

    def column(self, name: str) -> str:
        """The paper's name of a data set or backbone."""
        return self.names.get(name, name)

    def narrowed(self, only: Sequence[str], backbones: Sequence[str], seeds: Sequence[int]) -> ReproductionSetup:
        """The same with some data sets, backbones or seeds only.

        Raises:
            ConfigError: an unknown name, with the known ones.
        """
        known = (*self.datasets, *self.targets, *self.timed, *self.tuned)
        for name in only:
            if name not in known:
                raise ConfigError(f"--only: {unknown_name('data set', name, set(known))}")
        for name in backbones:
            if name not in (*self.backbones, *self.tuned_backbones):
                both = {*self.backbones, *self.tuned_backbones}
                raise ConfigError(f"--backbones: {unknown_name('backbone', name, both)}")

        def keep(names: tuple[str, ...], wanted: Sequence[str]) -> tuple[str, ...]:
            return tuple(name for name in names if not wanted or name in wanted)

        return dataclasses.replace(
            self,
            datasets=keep(self.datasets, only),
            probed=keep(self.probed, only),
            targets=keep(self.targets, only) if set(only) & set(self.targets) else self.targets,
            timed=keep(self.timed, only),
            backbones=keep(self.backbones, backbones),
            timed_backbones=keep(self.timed_backbones, backbones),
            tuned=keep(self.tuned, only),
            tuned_backbones=keep(self.tuned_backbones, backbones),
            seeds=tuple(seeds) or self.seeds,
            peers_seeds=tuple(seeds) or self.peers_seeds,
        )


PAPER = ReproductionSetup(
    name="paper",
    datasets=("flowers", "pets", "food101", "sun397", "dtd", "eurosat", "ucf101", "imagenet"),
    probed=("flowers", "pets", "food101", "sun397", "dtd", "eurosat", "ucf101"),
    source="imagenet",
    targets=("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"),
    backbones=("vit_b16", "vit_l14"),
    timed=("pets",),
    timed_backbones=("vit_b16", "vit_l14"),
    names={
        "flowers": "Flowers", "pets": "Pets", "food101": "Food101", "sun397": "SUN397", "dtd": "DTD",
        "eurosat": "EuroSAT", "ucf101": "UCF101", "imagenet": "ImageNet", "imagenetv2": "ImageNetV2",
        "imagenet_sketch": "ImageNetSketch", "imagenet_a": "ImageNetA", "imagenet_r": "ImageNetR",
        "vit_b16": "ViT-B/16", "vit_l14": "ViT-L/14"
        ,
    },
    seeds=(1, 2, 3),
    pgd="pgd40-fkl@16",
    rap="rap400@16",
    aa="aa@16",
    adaptive="pgd40-ce@16",
    aa_adaptive="apgd-ce-t@16",
    bank="pgd10-fkl@8",
    budgets=("1", "2", "4", "8", "16"),
    budget_steps=40,
    defenses=(
        InputDefense("super (authors' code)", "super:advpt", "super"),
        InputDefense("super (Mustafa et al.)", "super:mustafa"),
        InputDefense("rescale", "rescale", "rescale"),
        InputDefense("diffpure", "diffpure", "diffpure"),
    ),
    together=False,
    surrogate="resnet50",
    common=(("BANK.PROFILE", "paper"),),
    contexts=CONTEXTS,
    curve_every={"AdvPT": 10, "AdvTrain": 1, "FastAT": 1, "TradesFT": 1},
    peers_attacks={"APT": "pgd3-ce@4/a2.667", "FAP": "pgd3-kl@4/a2.667", "AdvIVLP": "pgd3-ce@4/a2.667",
                   "CAPT": "pgd3-ce@4/a2.667"},
    peers_settings=(
        ("OPTIM.MAX_EPOCH", "100"),
        ("DATALOADER.TRAIN_X.BATCH_SIZE", "32"),
        ("INPUT.TRANSFORMS", "('center_crop',)"),
        ("BANK.PROFILE", "sound"),
    ),
    tuned=("imagenet", "caltech101", "dtd", "eurosat", "pets", "fgvc_aircraft", "food101", "flowers", "stanford_cars",
           "sun397", "ucf101"),
    tuned_backbones=("vit_b16", "vit_b32"),
    said={
        "table2": "super (authors' code) is the wavelet alone at sigma 0.02, which AdvPT's code runs under the name "
        "super-resolution; AdvPT's paper writes sigma 0.2, so the published numbers beside it may be of another "
        "setting. super (Mustafa et al.) is the defense that it cites: sigma 0.01 in channel space, then EDSR x2; the "
        "paper has no such column. It gives neither rescale's sizes nor diffpure's sampler; here they are those of Xie "
        "et al. and DDPM.",
        "peers": "Every method trains at 4/255, on the same whole images, 100 epochs of batches of 32; attacks on "
        "pixels take 3 steps of 2.667/255. Prompts, losses and learning rates are each method's own.",
    },
)  # fmt: skip

DEMO = ReproductionSetup(
    name="demo",
    datasets=("digits", "rendered_digits"),
    probed=("digits", "rendered_digits"),
    source="rendered_digits",
    targets=("digits", "noisy_digits", "rotated_digits"),
    backbones=("democlip", "democlip_s"),
    timed=("digits",),
    timed_backbones=("democlip_s",),
    names={
        "digits": "Digits", "rendered_digits": "RenderedDigits", "noisy_digits": "NoisyDigits",
        "rotated_digits": "RotatedDigits", "democlip": "DemoCLIP", "democlip_s": "DemoCLIP-S",
    },
    seeds=(1, 2, 3),
    pgd="pgd40-fkl@8",
    rap="rap20@8/inner4",
    aa="apgd-ce-t@8",
    adaptive="pgd10-ce@2",
    aa_adaptive="pgd10-ce@2",
    bank="pgd10-fkl@4",
    budgets=("0.5", "1", "2", "4", "8"),
    budget_steps=10,
    defenses=(
        InputDefense("super", "super:advpt/sigma=0.05", "super"),
        InputDefense("rescale", "rescale", "rescale"),
        InputDefense("diffpure", "super:advpt/sigma=0.15+rescale", "diffpure"),
    ),
    together=True,
    surrogate="small-cnn",
    common=(
        ("BANK.PROFILE", "paper"),
        ("EVAL.SURROGATE", "small-cnn"),
        ("TRAIN.PRINT_FREQ", "1000"),
    ),
    contexts=(1, 4, 16, 50),
    curve_every={"AdvPT": 8, "AdvTrain": 1, "FastAT": 1, "TradesFT": 1},
    subset=200,
    defended_subset=100,
    clock_subset=100,
    clock_seeds=1,
    tuned=("digits",),
    tuned_backbones=("democlip",),
    peers="pgd10-ce@2",
    peers_bank="pgd10-fkl@2",
    peers_attacks={"APT": "pgd2-ce@2/a2", "FAP": "pgd2-kl@2/a2", "AdvIVLP": "pgd2-ce@2/a2", "CAPT": "pgd2-ce@2/a2"},
    peers_settings=(("OPTIM.MAX_EPOCH", "10"), ("DATALOADER.TRAIN_X.BATCH_SIZE", "16")),
    peers_words="a photo of the digit",
    peers_rates={"CoOp": "0.05", "CoCoOp": "0.02", "AdvPT": "0.1", "APT": "0.05", "FAP": "0.02", "AdvIVLP": "0.05",
                 "CAPT": "0.05"},
    peers_seeds=(2, 3, 4),
    said={
        "all": "Demo: DemoCLIP in two sizes, real handwritten and rendered printed digits, a part of the test images, "
        "attacks at half the paper's budget. It shows the machinery and the protocols, not the paper's numbers.",
        "table1": "RAP's surrogate is a stand-in: a small CNN trained on the digits, and 20 steps, in place of a "
        "ResNet-50 and 400.",
        "table2": "The column diffpure is a stand-in: wavelet denoising and random rescaling in place of a diffusion "
        "model; super denoises and does not scale up.",
        "table3": "AutoAttack is cut to its two APGD stages here, and diffpure is the stand-in of Table 2.",
        "peers": "All start as the hand-written words and take 100 steps of 16 images; training attacks on pixels "
        "are PGD-2 at 2/255. Learning rates are from one grid, on the validation split with seed 1, which is none of "
        "the seeds here.",
        "fig6": "Tuned on rendered digits, tested on real ones, and on real ones under noise and turned by 20 to 45 "
        "degrees.",
    },
)  # fmt: skip
SETUPS = {setup.name: setup for setup in (PAPER, DEMO)}
