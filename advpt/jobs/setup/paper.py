"""The paper's data sets, backbones, attacks and defenses."""

from __future__ import annotations

from advpt.jobs.setup import InputDefense, PeerSetup, ReproductionSetup, TaptSetup

PEERS = PeerSetup(
    attack="pgd100-ce@4/a1",
    bank="pgd10-fkl@4",
    training_attacks={"APT": "pgd3-ce@4/a2.667", "FAP": "pgd3-kl@4/a2.667", "AdvIVLP": "pgd3-ce@4/a2.667",
                      "CAPT": "pgd3-ce@4/a2.667"},
    backbones=("vit_b16", "vit_l14"),
    settings=(
        ("OPTIM.MAX_EPOCH", "100"),
        ("DATALOADER.TRAIN_X.BATCH_SIZE", "32"),
        ("INPUT.TRANSFORMS", "('center_crop',)"),
        ("BANK.PROFILE", "sound"),
    ),
)  # fmt: skip

TAPT = TaptSetup(
    datasets=("imagenet", "caltech101", "dtd", "eurosat", "pets", "fgvc_aircraft", "food101", "flowers",
              "stanford_cars", "sun397", "ucf101"),
    backbones=("vit_b16", "vit_b32"),
    source="imagenet",
    attacks={"pgd": "pgd100-ce@1/a1", "di": "difgsm100-ce@1/a1", "aa": "aa@1"},
    tuned="pgd100-ce@1/a1",
    adaptive="pgd20-ce@1",
    shots=16,
    subset=1000,
    settings=(("EVAL.EOT", "2"),),
    names={"imagenet": "ImageNet", "caltech101": "Caltech101", "dtd": "DTD", "eurosat": "EuroSAT", "pets": "Pets",
           "fgvc_aircraft": "Aircraft", "food101": "Food101", "flowers": "Flowers", "stanford_cars": "Cars",
           "sun397": "SUN397", "ucf101": "UCF101", "vit_b16": "ViT-B/16", "vit_b32": "ViT-B/32"},
    caption="The published numbers are of all test images (ImageNet: 50,000); ours of 1,000 at most for each data set, "
    "unless EVAL.SUBSET says otherwise.",
)  # fmt: skip

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
        "vit_b16": "ViT-B/16", "vit_l14": "ViT-L/14",
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
    common=(("BANK.PROFILE", "paper"),),
    contexts=(1, 2, 4, 8, 16, 32, 50),
    curve_every={"AdvPT": 10, "AdvTrain": 1, "FastAT": 1, "TradesFT": 1},
    peers=PEERS,
    tapt=TAPT,
    captions={
        "table2": "super (authors' code) is the wavelet alone at sigma 0.02, which AdvPT's code runs under the name "
        "super-resolution; AdvPT's paper writes sigma 0.2, so the published numbers beside it may be of another "
        "setting. super (Mustafa et al.) is the defense that it cites: sigma 0.01 in channel space, then EDSR x2; the "
        "paper has no such column. It gives neither rescale's sizes nor diffpure's sampler; here they are those of Xie "
        "et al. and DDPM.",
        "peers": "Every method trains at 4/255, on the same whole images, 100 epochs of batches of 32; attacks on "
        "pixels take 3 steps of 2.667/255. Prompts, losses and learning rates are each method's own.",
    },
)  # fmt: skip
