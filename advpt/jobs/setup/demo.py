"""The small stand-ins: DemoCLIP in two sizes and digits, without a download."""

from __future__ import annotations

from advpt.jobs.methods import ENCODER_TRAINERS
from advpt.jobs.setup import InputDefense, PeerSetup, ReproductionSetup, TaptSetup

PEERS = PeerSetup(
    attack="pgd10-ce@2",
    bank="pgd10-fkl@2",
    training_attacks={"APT": "pgd2-ce@2/a2", "FAP": "pgd2-kl@2/a2", "AdvIVLP": "pgd2-ce@2/a2", "CAPT": "pgd2-ce@2/a2"},
    backbones=("democlip", "democlip_s"),
    settings=(("OPTIM.MAX_EPOCH", "10"), ("DATALOADER.TRAIN_X.BATCH_SIZE", "16")),
    words="a photo of the digit",
    rates={"CoOp": "0.05", "CoCoOp": "0.02", "AdvPT": "0.1", "APT": "0.05", "FAP": "0.02", "AdvIVLP": "0.05",
           "CAPT": "0.05"},
    seeds=(2, 3, 4),
)  # fmt: skip

TAPT = TaptSetup(
    datasets=("digits",),
    backbones=("democlip",),
    source="digits",
    attacks={"pgd": "pgd10-ce@2", "aa": "apgd-ce-t@2"},
    tuned="pgd10-ce@2",
    adaptive="pgd5-ce@2",
    shots=16,
    subset=50,
    pretraining=(("OPTIM.MAX_EPOCH", "10"), ("DATALOADER.TRAIN_X.BATCH_SIZE", "16"), ("OPTIM.LR", "0.02")),
    context=(("CTX_INIT", "a photo of the digit"),),
    settings=(("EVAL.EOT", "1"), ("TRAINER.TAPT.LR", "0.01")),
    names={"digits": "Digits", "democlip": "DemoCLIP"},
    caption="Demo: DemoCLIP and handwritten digits, 16 images of each class, 50 test images, prompts tuned at 2/255 in "
    "100 steps; aa is cut to its two APGD stages. The tuning's rate, 0.01 in place of 5e-4, is the best on validation "
    "images by static accuracy. It shows the machinery and the protocols, not the paper's numbers.",
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
    clock_settings=dict.fromkeys(ENCODER_TRAINERS, (("OPTIM.MAX_EPOCH", "5"),)),
    peers=PEERS,
    tapt=TAPT,
    captions={
        "all": "Demo: DemoCLIP in two sizes, real handwritten and rendered printed digits, a part of the test images, "
        "attacks at half the paper's budget. It shows the machinery and the protocols, not the paper's numbers.",
        "table1": "RAP's surrogate is a stand-in: a small CNN trained on the digits, and 20 steps, in place of a "
        "ResNet-50 and 400.",
        "table2": "The column diffpure is a stand-in: wavelet denoising and random rescaling in place of a diffusion "
        "model; super denoises and does not scale up.",
        "table3": "AutoAttack is cut to its two APGD stages here, and diffpure is the stand-in of Table 2.",
        "table5": "Only tokens that DemoCLIP's pre-training has seen are searched.",
        "peers": "All start as the hand-written words and take 100 steps of 16 images; training attacks on pixels "
        "are PGD-2 at 2/255. Learning rates are from one grid, on the validation split with seed 1, which is none of "
        "the seeds here.",
        "fig6": "Tuned on rendered digits, tested on real ones, and on real ones under noise and turned by 20 to 45 "
        "degrees.",
    },
)  # fmt: skip
