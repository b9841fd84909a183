"""The README's list of differences from Dassl: every line has tests, every test that is named exists and is run."""

import io
import re
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from dassl.data.datasets import DatasetBase

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
TESTS = {
    "It runs on current torch": [
        "optim::test_rates_match_the_reference_table",
        "coop_style::test_train_save_resume_and_evaluate",
        "coop_style::test_best_val_run_resumes_from_its_best_epoch",
    ],
    "Safe loading": [
        "checkpoints::test_layout_and_content",
        "checkpoints::test_old_warm_up_checkpoints_resume_exactly",
        "checkpoints::test_a_planted_payload_is_named_and_does_not_run",
        "checkpoints::test_only_exact_names_are_admitted",
    ],
    "Exact resume": [
        "coop_style::test_resumed_run_is_bit_identical",
        "coop_style::test_best_result_survives_a_resume",
    ],
    "No torn files": [
        "checkpoints::test_a_failed_write_leaves_the_old_checkpoint",
        "coop_style::test_an_empty_folder_is_no_checkpoint_and_a_lost_pointer_is_an_error",
        "coop_style::test_models_of_different_epochs_are_not_resumed",
    ],
    "Class names in order": ["differences::test_class_names_are_in_the_order_of_labels"],
    "Errors": [
        "data::test_empty_loaders_say_which_split",
        "data::test_unreadable_images_are_named",
        "data::test_domain_samplers",
        "transforms::test_unknown_names",
        "utils::test_layers",
        "registry::test_unknown_names_are_answered_with_the_list_and_the_nearest",
    ],
    "Images": ["data::test_16_bit_images_are_scaled", "data::test_images_of_unknown_range_or_size_are_refused"],
    "Top-k accuracy": ["evaluation::test_top_k_accuracy"],
    "Confusion matrix": ["evaluation::test_macro_f1_and_confusion_are_scikit_learns"],
    "Log file": ["utils::test_log_file_and_console"],
    "Archives": ["differences::test_archives_stay_in_their_folder"],
    "Loading without a result": ["coop_style::test_default_load_model"],
    "`random_translation`": ["transforms::test_translation_draws_two_whole_numbers"],
}
NO_DIFFERENCES = {
    "few-shot subsets": ["fewshot::test_check_vector"],
    "`cutout`": ["transforms::test_cutout_and_noise_draw_as_upstream"],
    "`gaussian_noise`": ["transforms::test_cutout_and_noise_draw_as_upstream"],
    "torchvision's transforms": ["transforms::test_training_draws_are_torchvisions"],
    "`RandomDomainSampler`": ["data::test_samplers_draw_as_upstream"],
    "`SeqDomainSampler`": ["data::test_samplers_draw_as_upstream"],
    "`RandomClassSampler`": ["data::test_samplers_draw_as_upstream"],
    "0 is a seed": ["utils::test_zero_is_a_seed"],
}


@pytest.fixture(scope="module")
def section():
    if not README.is_file():
        pytest.skip("dassl-lite is installed without its README")
    return re.search(r"## Differences from Dassl 0\.6\.3\n(.*?)\n## ", README.read_text(), re.S)[1]


def test_every_difference_has_a_test(section):
    bullets = re.findall(r"^- \*\*(.+?)\.?\*\*", section, re.M)
    assert len(bullets) == len(re.findall(r"^- ", section, re.M))
    assert bullets == list(TESTS)


def test_what_is_said_to_be_none_has_a_test(section):
    rest = section.rpartition("\n- ")[2].partition("\n\n")[2]
    assert [words for words in NO_DIFFERENCES if words not in " ".join(rest.split())] == []
    assert set(re.findall(r"`\w+Sampler`", rest)) == {words for words in NO_DIFFERENCES if words.endswith("Sampler`")}


@pytest.mark.parametrize(
    "name", sorted({name for names in [*TESTS.values(), *NO_DIFFERENCES.values()] for name in names})
)
def test_the_named_tests_exist(name):
    file, _, test = name.partition("::")
    source = (HERE / f"test_lite_{file}.py").read_text()
    assert re.search(rf"^def {test}\(", source, re.M)
    body = source.partition(f"def {test}(")[2].partition("\ndef ")[0]
    assert "assert" in body or "pytest.raises" in body


def item(label, name):
    return SimpleNamespace(label=label, domain=0, classname=name)


def test_class_names_are_in_the_order_of_labels():
    dataset = DatasetBase([item(2, "b"), item(10, "c"), item(0, "a"), item(2, "a second name")])
    assert list(dataset.lab2cname.items()) == [(0, "a"), (2, "b"), (10, "c")]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_stay_in_their_folder(tmp_path, monkeypatch, kind):
    def download(url, dst, quiet):
        content = b"outside"
        if kind == "zip":
            with zipfile.ZipFile(dst, "w") as archive:
                archive.writestr("../escaped.txt", content)
        else:
            with tarfile.open(dst, "w:gz") as archive:
                member = tarfile.TarInfo("../escaped.txt")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    monkeypatch.setitem(sys.modules, "gdown", SimpleNamespace(download=download))
    dataset, folder = DatasetBase([item(0, "a")]), tmp_path / "data"
    try:
        dataset.download_data("id", folder / f"set.{kind}")
    except tarfile.FilterError:
        assert kind == "tar.gz"
    assert not (tmp_path / "escaped.txt").exists()
