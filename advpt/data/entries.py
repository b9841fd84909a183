"""The data sets, one entry each: names, counts, hashes, templates and sources.

Counts, hashes and addresses are facts gathered from CoOp's guide, the data sets' own pages, torchvision
and TensorFlow Datasets. Hashes of split files are those of the copies in the MIT-licensed repository
linzhiqiu/cross_modal_adaptation at a pinned commit.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

from advpt.data.facts import Checksums, DatasetFacts, Lookalike, Part, Source, SplitFacts

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

MIRROR = (
    "https://raw.githubusercontent.com/linzhiqiu/cross_modal_adaptation/"
    "ac9077ee4e422f768c9b9109551468605e33ec9a/splits/"
)
VGG = "https://www.robots.ox.ac.uk/~vgg/data/"
COLLECTION = "https://huggingface.co/datasets/zhengli97/prompt_learning_dataset"
COLLECTION_NOTE = "Unofficial copies of all sets but ImageNet; use them with the hash and count checks only."


_images = functools.partial(Source, "images")


def _mirrored(file: SplitFacts, drive: str, what: Literal["split", "names"] = "split", **more: Any) -> list[Source]:
    """A split file, or another that CoOp added, in the pinned mirror and on CoOp's Google Drive."""
    more |= {field.name: getattr(file, field.name) for field in dataclasses.fields(Checksums)}
    return [
        Source(what, "github", MIRROR + file.filename, file.filename, **more),
        Source(what, "drive", drive, file.filename, **more),
    ]


DIGITS = DatasetFacts(
    name="Digits",
    aliases=("digits",),
    folder="digits",
    image_dir="images",
    classes=10,
    counts=(897, 300, 600),
    template="a photo of the digit {}.",
    split=SplitFacts(
        "split_advpt_Digits.json",
        content="b1e3c3fbd1a357134dec3effc1d64ddc4435f1864a2367bc6155ea377a744de1",
    ),
    licence="CC BY 4.0 (UCI, Optical Recognition of Handwritten Digits)",
    disk="8 MB",
    notes=("Written from scikit-learn's load_digits at first use; no download.",),
    parts=(Part("images"),),
    gigabytes=(0.0, 0.008),
)

_PETS_SPLIT = SplitFacts(
    "split_zhou_OxfordPets.json",
    size=724_217,
    md5="fadad0caba06c4d0d2baf192015f50b4",
    sha256="d7f3ffe65b3919f95132e51422894ae18686b83c331fd8c0adcdc3dc2de6301e",
    git_blob="fa821d9f9e7d32fdf3640bf74fa7491ed04f37da",
    content="175852640a3b1e8d7441c6224786fd018b4d6bcdd60f4495edca8a185631729d",
)
OXFORD_PETS = DatasetFacts(
    name="OxfordPets",
    aliases=("pets", "oxford_pets"),
    folder="oxford_pets",
    image_dir="images",
    classes=37,
    counts=(2_944, 736, 3_669),
    template="a photo of a {}, a type of pet.",
    other=("annotations/",),
    split=_PETS_SPLIT,
    sources=(
        _images("url", VGG + "pets/data/images.tar.gz", "images.tar.gz", md5="5c4f3ee8e5d25df40f4fd59a7f44e54c"),
        Source(
            "annotations",
            "url",
            VGG + "pets/data/annotations.tar.gz",
            "annotations.tar.gz",
            md5="95a8c909bbe2e81eed6a22bccdf3f68f",
            note="only to rebuild the split",
            optional=True,
        ),
        *_mirrored(_PETS_SPLIT, "1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs"),
    ),
    lookalikes=(
        Lookalike(
            "oxford-iiit-pet/images",
            "this is torchvision's layout; rename or link oxford-iiit-pet to oxford_pets.",
        ),
    ),
    licence="CC BY-SA 4.0",
    disk="0.8 GB",
    notes=("Test is the official test; the official trainval is cut 80/20 per class.",),
    parts=(Part("images", ("oxford-iiit-pet/images",)),),
    spare=41,
    gigabytes=(0.8, 0.8),
)

_FLOWERS_SPLIT = SplitFacts(
    "split_zhou_OxfordFlowers.json",
    size=771_139,
    md5="cfeaf0508c398ca993bf48ca5f034569",
    sha256="2f50c42fc1a17ca13c271cb4269b1347bdb43d2be672e34f74a4e4cbfbcca794",
    git_blob="8d10037b0690b6c65e307a354b039efb0f42404c",
    content="9bf82a401539357a181e5f0b836ae7fcd5baa38b55e264a2059df8e86adc898a",
)
_CAT_TO_NAME = SplitFacts(
    "cat_to_name.json",
    size=2_212,
    md5="e9e30ddad249c414268af3d43f0a4222",
    sha256="0469f1ad7fe0072d98155c49aa58649d998edbbe3326229003aa5f7228525236",
    git_blob="6c12bd26e1ab450b70e6e5e76aa1885591ec038e",
)
OXFORD_FLOWERS = DatasetFacts(
    name="OxfordFlowers",
    aliases=("flowers", "oxford_flowers"),
    folder="oxford_flowers",
    image_dir="jpg",
    classes=102,
    counts=(4_093, 1_633, 2_463),
    template="a photo of a {}, a type of flower.",
    other=("imagelabels.mat", "cat_to_name.json"),
    split=_FLOWERS_SPLIT,
    sources=(
        _images(
            "url",
            VGG + "flowers/102/102flowers.tgz",
            "102flowers.tgz",
            md5="52808999861908f626f3c1f4e79d11fa",
        ),
        Source(
            "annotations",
            "url",
            VGG + "flowers/102/imagelabels.mat",
            "imagelabels.mat",
            md5="e0620be6f572b9609742df49c70aed4d",
            note="only to rebuild the split",
            optional=True,
        ),
        *_mirrored(
            _CAT_TO_NAME,
            "1AkcxCXeK_RCGCEC_GvmWxjcjaNhu-at0",
            "names",
            note="only to rebuild the split",
            optional=True,
        ),
        *_mirrored(_FLOWERS_SPLIT, "1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT"),
    ),
    lookalikes=(
        Lookalike("flowers-102/jpg", "this is torchvision's layout; rename or link flowers-102 to oxford_flowers."),
    ),
    licence="unknown; the images come from the web",
    disk="0.35 GB",
    notes=(
        "A random 50/20/30 cut per class, not the data set's official split.",
        "Labels first appear in the order of imagelabels.mat (76, 72, 87, ...).",
    ),
    parts=(Part("jpg", ("flowers-102/jpg",)),),
    gigabytes=(0.35, 0.35),
)

_FOOD_SPLIT = SplitFacts("split_zhou_Food101.json", git_blob="39557040ee6501bd32aa8b5dfd75f7941a32f0a7")
FOOD101 = DatasetFacts(
    name="Food101",
    aliases=("food101",),
    folder="food-101",
    image_dir="images",
    classes=101,
    counts=(50_500, 20_200, 30_300),
    template="a photo of {}, a type of food.",
    split=_FOOD_SPLIT,
    sources=(
        _images(
            "url",
            "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
            "food-101.tar.gz",
            md5="85eeb15f3717b99a5da872d97d918f87",
        ),
        *_mirrored(_FOOD_SPLIT, "1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl"),
    ),
    licence="for scientific fair use; the images belong to Foodspotting",
    disk="5 GB",
    notes=("A random 50/20/30 cut of all 101,000 images.",),
    parts=(Part("images"),),
    gigabytes=(5.0, 5.0),
)

_SUN_SPLIT = SplitFacts("split_zhou_SUN397.json", git_blob="8d5725db8f70bcf02245665304f863e68f96a24c")
SUN397 = DatasetFacts(
    name="SUN397",
    aliases=("sun397",),
    folder="sun397",
    image_dir="SUN397",
    classes=397,
    counts=(15_880, 3_970, 19_850),
    other=("ClassName.txt", "Training_01.txt", "Testing_01.txt"),
    split=_SUN_SPLIT,
    sources=(
        _images(
            "manual",
            "http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
            "SUN397.tar.gz",
            size=39_077_296_924,
            md5="8ca2778205c41d23104230ba66911c7a",
            sha256="f404130965a7ad77",
            note="The address answers 404 since 2025: bring the archive yourself (--archive, --from).",
        ),
        Source(
            "annotations",
            "url",
            "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip",
            "Partitions.zip",
            size=18_293_705,
            sha256="e3311ea5f812d4cc",
            note="only to rebuild the split",
            optional=True,
        ),
        _images("manual", COLLECTION, "sun397.zip", note=COLLECTION_NOTE),
        *_mirrored(_SUN_SPLIT, "1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq"),
    ),
    lookalikes=tuple(
        Lookalike(
            path,
            "this is a copy cut anew into train/ and test/; the split needs the original tree "
            "SUN397/<letter>/<class>, for example SUN397/a/abbey.",
        )
        for path in ("sun397/train", "sun397/SUN397/train")
    ),
    licence="for research; the images come from the web",
    disk="39 GB packed and 39 GB unpacked",
    notes=(
        "Official partition 01; its train part is cut 80/20. 39,700 of the 108,754 images are used.",
        "Labels follow the sorted folder paths, not the class names.",
    ),
    parts=(Part("SUN397"),),
    spare=69_054,
    gigabytes=(39.1, 39.1),
)

_DTD_SPLIT = SplitFacts(
    "split_zhou_DescribableTextures.json",
    size=563_702,
    md5="02ff57f1bbd002a43320737a3ecbc113",
    sha256="f26ebeccd2b58e68d70f07a0dc39fe49bf7b69024bac34396b954dfd87969c38",
    git_blob="8dd197a94b598fa44ee3c9e35c486dd017ab00a7",
    content="0d04a9bb08938c9d435fc3c6b5030906334f6d8ccf4d80f8319e5d7f4fbdd4ba",
)
DESCRIBABLE_TEXTURES = DatasetFacts(
    name="DescribableTextures",
    aliases=("dtd",),
    folder="dtd",
    image_dir="images",
    classes=47,
    counts=(2_820, 1_128, 1_692),
    template="{} texture.",
    split=_DTD_SPLIT,
    sources=(
        _images(
            "url",
            VGG + "dtd/download/dtd-r1.0.1.tar.gz",
            "dtd-r1.0.1.tar.gz",
            md5="fff73e5086ae6bdbea199a49dfb8a4c1",
        ),
        *_mirrored(_DTD_SPLIT, "1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x"),
    ),
    lookalikes=(
        Lookalike("dtd/dtd/images", "this is torchvision's nested layout; move or link dtd/dtd one level up."),
    ),
    licence="for research",
    disk="0.6 GB",
    notes=("A random 50/20/30 cut, not one of DTD's ten splits.",),
    parts=(Part("images", ("dtd/dtd/images",)),),
    gigabytes=(0.63, 0.65),
)

_EUROSAT_SPLIT = SplitFacts(
    "split_zhou_EuroSAT.json",
    size=3_006_492,
    md5="989e1eca757dec43cfcee28faf6b28fc",
    sha256="541503a77d0b26b735d85ec7a3e672804fe0aa466c2e5f07da772cc6c0af8ad2",
    git_blob="6bdc847a5d5c49dcc78e8cb8707b87198cbfa5a4",
    content="b9db23fedd13a2d3374107fe494f4fa814e7837c771660c850aab95ec391ad1a",
)
EUROSAT = DatasetFacts(
    name="EuroSAT",
    aliases=("eurosat",),
    folder="eurosat",
    image_dir="2750",
    classes=10,
    counts=(13_500, 5_400, 8_100),
    template="a centered satellite photo of {}.",
    split=_EUROSAT_SPLIT,
    sources=(
        _images(
            "url",
            "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
            "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
            "EuroSAT.zip",
            md5="c8fa014336c82ac7804f0398fcb19387",
        ),
        _images(
            "url",
            "http://madm.dfki.de/files/sentinel/EuroSAT.zip",
            "EuroSAT.zip",
            md5="c8fa014336c82ac7804f0398fcb19387",
            note="the certificate of this address expired in 2023",
        ),
        *_mirrored(_EUROSAT_SPLIT, "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o"),
    ),
    licence="MIT",
    disk="0.1 GB",
    notes=("A random 50/20/30 cut. Class names are CoOp's longer ones, 'Annual Crop Land' for AnnualCrop.",),
    parts=(Part("2750"),),
    gigabytes=(0.095, 0.11),
)

_UCF_SPLIT = SplitFacts(
    "split_zhou_UCF101.json",
    size=1_557_485,
    md5="3a70ae2e43036a21111f3692a43fc839",
    sha256="d78cb834f7c5792ceaff2c5ee2d7c76a9e4086e48a3a6b01232989d29cbefdd8",
    git_blob="ea87e3de7b4f6f00fdd77618e34a23508b4c5590",
    content="29a5dc239824943e473244fc18abf1b43734213fc748cffa25ccd773fbe7271a",
)
_UCF_FRAMES = "the middle frames are needed, not the videos: UCF-101-midframes.zip of CoOp's guide."
UCF101 = DatasetFacts(
    name="UCF101",
    aliases=("ucf101",),
    folder="ucf101",
    image_dir="UCF-101-midframes",
    classes=101,
    counts=(7_639, 1_898, 3_783),
    template="a photo of a person doing {}.",
    other=("ucfTrainTestlist/",),
    split=_UCF_SPLIT,
    sources=(
        _images("drive", "10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O", "UCF-101-midframes.zip"),
        Source(
            "annotations",
            "url",
            "https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",
            "UCF101TrainTestSplits-RecognitionTask.zip",
            size=113_943,
            sha256="5c0d1a53b8ed364a",
            note="only to rebuild the split",
            optional=True,
        ),
        *_mirrored(_UCF_SPLIT, "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y"),
    ),
    lookalikes=(
        Lookalike("ucf101/UCF-101", _UCF_FRAMES),
        Lookalike("UCF-101", _UCF_FRAMES),
        Lookalike("ucf101/UCF-101-midframes/*/*.avi", _UCF_FRAMES),
    ),
    licence="unknown; the videos come from the web",
    disk="under 1 GB",
    notes=(
        "Official list 01; its train part is cut 80/20. Frames cut anew from the videos give other pixels.",
        "Folder Handstand_Pushups holds files called v_HandStandPushups_*: both spellings are right.",
    ),
    parts=(Part("UCF-101-midframes"),),
    gigabytes=(1.0, 1.0),
)

_CLASSNAMES_NOTE = "classnames.txt ships with the project; one in the folder is compared with it."
_WNIDS = "385e0240499426c0"
_KAGGLE = (
    "this is Kaggle's wrapped layout; move or link its train and val folders to imagenet/images/train and "
    "imagenet/images/val (val must have one folder per class)."
)
IMAGENET = DatasetFacts(
    name="ImageNet",
    aliases=("imagenet",),
    folder="imagenet",
    image_dir="images",
    classes=1_000,
    counts=(1_281_167, 0, 50_000),
    other=("classnames.txt",),
    class_folders=_WNIDS,
    sources=(
        _images(
            "manual",
            "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
            "ILSVRC2012_img_train.tar",
            md5="1d675b47d978889d74fa0da5fadfb00e",
            note="needs an account; the 2012 classification task",
            gives=("images/train",),
        ),
        _images(
            "manual",
            "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
            "ILSVRC2012_img_val.tar",
            md5="29b22e2961454d5413ddabcf34fc5622",
            note="needs an account",
            gives=("images/val",),
        ),
        Source(
            "annotations",
            "manual",
            "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
            "ILSVRC2012_devkit_t12.tar.gz",
            md5="fa75699e90414af021442c21a62c3abf",
            note="needs an account; it says which class a val image belongs to",
        ),
        Source(
            "names",
            "drive",
            "1-61f_ol79pViBFDG_IDlUQSwoLcn2XXF",
            "classnames.txt",
            size=21_814,
            note="the same list ships with the project",
            optional=True,
        ),
    ),
    lookalikes=(
        Lookalike("ILSVRC/Data/CLS-LOC", _KAGGLE),
        Lookalike("imagenet/ILSVRC/Data/CLS-LOC", _KAGGLE),
        Lookalike("imagenet/images/ILSVRC/Data/CLS-LOC", _KAGGLE),
    ),
    licence="for non-commercial research, after registration at image-net.org",
    disk="155 GB packed and 155 GB unpacked",
    notes=(
        "Test is the official val; `val` is the same list.",
        _CLASSNAMES_NOTE,
        "Test subset paper1000: one image per class by our seeded rule; the authors' list is not public.",
    ),
    parts=(
        Part("images/train", ("train", "ILSVRC/Data/CLS-LOC/train", "Data/CLS-LOC/train")),
        Part("images/val", ("val", "ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val")),
    ),
    gigabytes=(155.0, 155.0),
)

IMAGENET_V2 = DatasetFacts(
    name="ImageNetV2",
    aliases=("imagenetv2",),
    folder="imagenetv2",
    image_dir="imagenetv2-matched-frequency-format-val",
    classes=1_000,
    counts=(0, 0, 10_000),
    other=("classnames.txt",),
    sources=(
        _images(
            "url",
            "https://s3-us-west-2.amazonaws.com/imagenetv2public/imagenetv2-matched-frequency.tar.gz",
            "imagenetv2-matched-frequency.tar.gz",
            size=1_253_959_680,
            sha256="a32004f9e773279307499059d320336a23ccdc62cb32063da29bae9bd04c122c",
        ),
        _images(
            "manual",
            "https://huggingface.co/datasets/vaishaal/ImageNetV2",
            "imagenetv2-matched-frequency.tar.gz",
            note="where the project points to now; whether its hash is the same is not verified",
        ),
    ),
    lookalikes=tuple(
        Lookalike(path, "this is another of the three V2 sets; imagenetv2-matched-frequency.tar.gz is needed.")
        for path in ("imagenetv2/imagenetv2-top*", "imagenetv2/imagenetv2-threshold*")
    ),
    licence="MIT (lists and code); the images come from the web",
    disk="1.3 GB",
    notes=("Folders are plain numbers, and the number is the label.", _CLASSNAMES_NOTE),
    parts=(Part("imagenetv2-matched-frequency-format-val"),),
    gigabytes=(1.26, 1.3),
)

IMAGENET_SKETCH = DatasetFacts(
    name="ImageNetSketch",
    aliases=("imagenet_sketch",),
    folder="imagenet-sketch",
    image_dir="images",
    classes=1_000,
    counts=(0, 0, 50_889),
    other=("classnames.txt",),
    class_folders=_WNIDS,
    sources=(_images("drive", "1Mj0i5HBthqH1p_yeXzsg22gZduvgoNeA", "ImageNet-Sketch.zip"),),
    lookalikes=(Lookalike("imagenet-sketch/sketch", "the archive's folder is called sketch; rename it to images."),),
    licence="unknown; the images come from the web",
    disk="7.8 GB",
    notes=("The data set's page rounds its 50,889 images to 50,000.", _CLASSNAMES_NOTE),
    parts=(Part("images", ("sketch", "imagenet-sketch/sketch")),),
    gigabytes=(7.8, 7.9),
)

IMAGENET_A = DatasetFacts(
    name="ImageNetA",
    aliases=("imagenet_a",),
    folder="imagenet-adversarial",
    image_dir="imagenet-a",
    classes=200,
    counts=(0, 0, 7_500),
    other=("classnames.txt",),
    class_folders="f6aa4b23244554d9",
    sources=(
        _images(
            "url",
            "https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",
            "imagenet-a.tar",
            size=687_552_512,
            sha256="3bb3632277e6ba6392ea64c02ddbf4dd2266c9caffd6bc09c9656d28f012589e",
        ),
    ),
    lookalikes=(Lookalike("imagenet-a", "move or link the folder imagenet-a into a folder imagenet-adversarial."),),
    licence="MIT (lists and code); the images come from the web",
    disk="0.7 GB",
    notes=(
        "200 classes with labels of their own, by sorted folder; not ImageNet's labels.",
        _CLASSNAMES_NOTE,
    ),
    parts=(Part("imagenet-a"),),
    gigabytes=(0.69, 0.69),
)

IMAGENET_R = DatasetFacts(
    name="ImageNetR",
    aliases=("imagenet_r",),
    folder="imagenet-rendition",
    image_dir="imagenet-r",
    classes=200,
    counts=(0, 0, 30_000),
    other=("classnames.txt",),
    class_folders="e19a59d84e3746fa",
    sources=(
        _images(
            "url",
            "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
            "imagenet-r.tar",
            size=2_191_079_936,
            sha256="18c6bf493b39a0d975d48e587437f562caab9c52ae6327dcfa9dd8eb54aa1b52",
        ),
    ),
    lookalikes=(Lookalike("imagenet-r", "move or link the folder imagenet-r into a folder imagenet-rendition."),),
    licence="MIT (lists and code); the images come from the web",
    disk="2.2 GB",
    notes=(
        "200 classes with labels of their own, by sorted folder; not ImageNet's labels.",
        _CLASSNAMES_NOTE,
    ),
    parts=(Part("imagenet-r"),),
    gigabytes=(2.2, 2.2),
)

_CALTECH_SPLIT = SplitFacts(
    "split_zhou_Caltech101.json",
    size=809_184,
    md5="385cabeb25ebeebaa36167d7028ebc52",
    sha256="52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5",
    git_blob="8be694a80de04a39fb159c462bea9696aa47ccf1",
    content="266b016abdaeeb65436a3273abb64b9c02633d8d97988b66592f0fd28b2659a4",
)
CALTECH101 = DatasetFacts(
    name="Caltech101",
    aliases=("caltech101",),
    folder="caltech-101",
    image_dir="101_ObjectCategories",
    classes=100,
    counts=(4_128, 1_649, 2_465),
    split=_CALTECH_SPLIT,
    sources=(
        _images(
            "url",
            "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
            "caltech-101.zip",
            md5="3138e1922a9193bfa496528edbbc45d0",
            note="the zip holds 101_ObjectCategories.tar.gz",
            inner=("caltech-101/101_ObjectCategories.tar.gz",),
        ),
        *_mirrored(_CALTECH_SPLIT, "1hyarUivQE36mY6jSomru6Fjd-JzwcCzN"),
    ),
    licence="CC BY 4.0",
    disk="0.14 GB",
    notes=(
        "Folders BACKGROUND_Google and Faces_easy are not used; airplanes is called airplane, Faces face, "
        "Leopards leopard, Motorbikes motorbike.",
    ),
    parts=(Part("101_ObjectCategories", ("caltech-101/101_ObjectCategories", "caltech101/101_ObjectCategories")),),
    spare=-1,
    gigabytes=(0.14, 0.15),
)

_CARS_DEAD = "The address is dead: bring cars_train and cars_test yourself (--archive, --from)."
_CARS_SPLIT = SplitFacts(
    "split_zhou_StanfordCars.json",
    size=1_855_652,
    md5="91255fab2e15280e6d9d9d24cc87efdb",
    sha256="40acee7aa65c8e4727a32d90e884b7c3f8960b523422317e163f7af65432959d",
    git_blob="dcdb8264712e9940e74cfb0f06ddb8f9cc239b81",
    content="bffbe347fbf93ad532133ff506d15606ac007812cfac9933551a5877f5263dd3",
)
STANFORD_CARS = DatasetFacts(
    name="StanfordCars",
    aliases=("stanford_cars",),
    folder="stanford_cars",
    image_dir="",
    classes=196,
    counts=(6_509, 1_635, 8_041),
    other=("cars_train/", "cars_test/", "devkit/", "cars_test_annos_withlabels.mat"),
    split=_CARS_SPLIT,
    sources=(
        _images(
            "manual",
            "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
            "cars_train.tgz",
            note=_CARS_DEAD,
            gives=("cars_train",),
        ),
        _images(
            "manual",
            "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
            "cars_test.tgz",
            note=_CARS_DEAD,
            gives=("cars_test",),
        ),
        *_mirrored(_CARS_SPLIT, "1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT"),
    ),
    licence="for research",
    disk="2 GB",
    notes=("Paths in the split begin with cars_train/ or cars_test/; devkit is only needed to rebuild it.",),
    parts=(
        Part("cars_train", ("cars_train/cars_train",)),
        Part("cars_test", ("cars_test/cars_test",)),
    ),
    gigabytes=(2.0, 2.0),
)

FGVC_AIRCRAFT = DatasetFacts(
    name="FGVCAircraft",
    aliases=("fgvc_aircraft",),
    folder="fgvc_aircraft",
    image_dir="images",
    classes=100,
    counts=(3_334, 3_333, 3_333),
    template="a photo of a {}, a type of aircraft.",
    other=(
        "variants.txt",
        "images_variant_train.txt",
        "images_variant_val.txt",
        "images_variant_test.txt",
    ),
    sources=(
        _images(
            "url",
            VGG.replace("/data/", "/data/fgvc-aircraft/archives/") + "fgvc-aircraft-2013b.tar.gz",
            "fgvc-aircraft-2013b.tar.gz",
            note="its inner folder fgvc-aircraft-2013b/data becomes fgvc_aircraft",
        ),
    ),
    lookalikes=(
        Lookalike(
            "fgvc-aircraft-2013b/data/images",
            "move or link fgvc-aircraft-2013b/data to fgvc_aircraft.",
        ),
    ),
    licence="for non-commercial research",
    disk="2.8 GB",
    notes=("The data set's own lists of variants; there is no split file.",),
    parts=tuple(
        Part(target, (f"fgvc-aircraft-2013b/data/{target}", f"data/{target}"))
        for target in (
            "images",
            "variants.txt",
            "images_variant_train.txt",
            "images_variant_val.txt",
            "images_variant_test.txt",
        )
    ),
    gigabytes=(2.75, 2.8),
)

IMAGE_FOLDER = DatasetFacts(
    name="ImageFolder",
    aliases=("image_folder",),
    folder="image_folder",
    image_dir="",
    classes=0,
    counts=(0, 0, 0),
    notes=("One's own data: train, val (may be left out) and test, each with one folder per class.",),
)

ENTRIES: tuple[DatasetFacts, ...] = (
    OXFORD_PETS,
    OXFORD_FLOWERS,
    FOOD101,
    SUN397,
    DESCRIBABLE_TEXTURES,
    EUROSAT,
    UCF101,
    IMAGENET,
    IMAGENET_V2,
    IMAGENET_SKETCH,
    IMAGENET_A,
    IMAGENET_R,
    CALTECH101,
    STANFORD_CARS,
    FGVC_AIRCRAFT,
    DIGITS,
    IMAGE_FOLDER,
)
