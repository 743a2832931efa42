"""A finished prompt in use: the labels of evaluation, from any folder, in another process, and errors in a sentence."""

from __future__ import annotations

import csv
import errno
import io
import json
import shutil
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

import xprompt as xp
from tests.runs.test_run import config, place  # noqa: F401
from xprompt.__main__ import main
from xprompt.errors import shown
from xprompt.prompts.card import PromptCard
from xprompt.tasks.example import RawExample

PAIR = {"premise": "the cat sat", "hypothesis": "the dog ran"}


@pytest.fixture(scope="module")
def nano():
    return xp.load_backbone("nano")


@pytest.fixture(scope="module")
def splits():
    return xp.load_task("rte", limit_train=64, limit_validation=32)


@pytest.fixture(scope="module")
def tuned(nano, splits):
    prompt = xp.SoftPrompt.init(nano, length=4, seed=0)
    return xp.tune(nano, prompt, splits, xp.TuneSettings(steps=4, eval_every=4, batch_size=16)).prompt


@pytest.fixture(scope="module")
def folder(tuned, tmp_path_factory):
    return tuned.save(tmp_path_factory.mktemp("saved") / "prompt", metrics={"accuracy": 0.625})


@pytest.fixture(scope="module")
def clf(folder):
    return xp.classifier(folder)


def test_it_gives_the_labels_of_evaluation(clf, nano, tuned, splits):
    predicted = [clf.labels.index(p.label) for p in clf([dict(e.fields) for e in splits.validation])]
    assert predicted == xp.predict(nano, tuned, splits.validation)
    assert len(set(predicted)) > 1, "one label alone would prove nothing"


def test_mark_up_of_the_release_is_removed_as_in_training(nano, tuned, tmp_path):
    splits = xp.load_task("multirc", limit_train=8, limit_validation=8)
    clf = xp.classifier(xp.tune(nano, tuned, splits, xp.TuneSettings(steps=1)).prompt.save(tmp_path / "prompt"))
    texts = {"paragraph": "Ann sold the boat. Bo slept.", "question": "who slept?", "answer": "Bo"}
    marked = texts | {"paragraph": "<b>Ann sold</b> the boat.<br>Bo slept."}
    assert clf(marked).probabilities == clf(texts).probabilities != clf(texts | {"answer": "Ann"}).probabilities


def test_every_form_of_input_gives_the_same(clf):
    one = clf(PAIR)
    assert clf([PAIR, PAIR]) == clf(iter([PAIR, PAIR])) and clf([PAIR, PAIR])[0].label == one.label
    frame = clf(pd.DataFrame([PAIR, PAIR], index=["a", "b"]).assign(other=1))
    assert list(frame.columns) == ["label", "p(entailment)", "p(not_entailment)"] and list(frame.index) == ["a", "b"]
    assert list(frame.label) == [one.label] * 2
    assert frame["p(entailment)"].iloc[0] == pytest.approx(one.probabilities["entailment"], abs=1e-5)
    assert sum(one.probabilities.values()) == pytest.approx(1) and one.probability == max(one.probabilities.values())
    assert clf([]) == [] and len(clf(pd.DataFrame(columns=["premise", "hypothesis"]))) == 0
    assert clf({"premise": np.int64(3), "hypothesis": 3}) == clf({"premise": "3", "hypothesis": "3"})
    of_a_file = RawExample(PAIR | {"premise": True}, "line 1", 0)  # as JSON holds it, trained and classified alike
    assert clf([of_a_file]) == clf([PAIR | {"premise": "true"}])


@pytest.mark.parametrize(
    "given, words",
    [
        ("a sentence", 'pass clf({"hypothesis": "…", "premise": "…"})'),
        ({"premise": "a"}, "field 'hypothesis'"),
        ([PAIR, PAIR | {"premise": " "}], "input 1, field 'premise': given an empty text"),
        ([PAIR, PAIR | {"premise": None}], "input 1, field 'premise': given None"),
        ([PAIR | {"premise": float("nan")}], "given nan"),
        ([PAIR | {"premise": float("inf")}], "given inf"),
        ([PAIR | {"premise": True}], "input 0, field 'premise': given True"),
        (pd.DataFrame({"premise": [False], "hypothesis": ["b"]}), "write it as it was trained on: 'True' or"),
        ([PAIR | {"premise": "\ud83d"}], "given '\\ud83d'"),
        ([PAIR | {"premise": 10**5000}], "given a whole number of thousands of digits"),
        ([PAIR | {"premise": Fraction(1, 2)}], "given Fraction(1, 2)"),
        (pd.DataFrame([PAIR, {"premise": None, "hypothesis": "b"}], index=[7, 8]), "row 8, field 'premise'"),
        (pd.DataFrame({"text": ["a"]}), "the DataFrame, column 'hypothesis': given columns text"),
        (3, "given int 3"),
        (b"text", "given bytes"),
        ([3], "input 0: given int 3"),
    ],
    ids=lambda given: shown(given, 40),
)
def test_a_wrong_input_is_named(clf, given, words):
    with pytest.raises(xp.DataError) as caught:
        clf(given)
    assert words in str(caught.value)


def in_another_process(folder, inputs, cwd) -> list[str]:
    code = f"import xprompt as xp\nfor p in xp.classifier({str(folder)!r})({inputs!r}): print(repr(p))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=cwd)
    return done.stdout.splitlines()


def test_a_row_of_a_table_is_one_input(clf):
    frame = pd.DataFrame([PAIR | {"label": "x"}, {"premise": "a", "hypothesis": "b", "label": "y"}])
    assert clf(frame.iloc[0]) == clf(PAIR)
    assert clf([row for _, row in frame.iterrows()]) == clf(frame[list(PAIR)].to_dict("records"))


def test_a_column_that_stands_twice_is_named(clf):
    frame = pd.DataFrame([["a", "b", "c"]], columns=["premise", "premise", "hypothesis"])
    with pytest.raises(xp.DataError, match="column 'premise': given it twice"):
        clf(frame)
    other = frame.set_axis(["premise", "more", "hypothesis"], axis=1)[["premise", "hypothesis", "more", "more"]]
    assert len(clf(other)) == 1, "columns that are not looked at may repeat"


@pytest.mark.parametrize("size", ["8", 0, -1, 2.5, True])
def test_a_batch_size_that_is_none_is_named(clf, size):
    with pytest.raises(xp.DataError, match="batch_size: given .*at least 1, a whole number"):
        clf([PAIR, PAIR], batch_size=size)


def test_two_lines_predict_in_another_process(clf, folder, nano, tuned, tmp_path):
    peft = xp.to_peft(tuned, nano, tmp_path / "peft")
    expected = [repr(p) for p in clf([PAIR, PAIR])]
    assert in_another_process(folder, [PAIR, PAIR], tmp_path) == expected
    assert in_another_process(peft, [PAIR, PAIR], tmp_path) == expected


def test_pruned_prompts_keep_what_they_were_tuned_for(nano, tuned, splits, tmp_path):
    scores = xp.importance(nano, tuned, splits.train, limit=16)
    for mode in ("zero", "drop"):
        pruned = xp.prune(tuned, scores, 0.5, 0.5, mode)
        expected = xp.predict(nano, pruned, splits.validation)
        inputs = [dict(e.fields) for e in splits.validation]
        for saved in (pruned.save(tmp_path / mode), xp.to_peft(pruned, nano, tmp_path / f"{mode}-peft")):
            clf = xp.classifier(saved, backbone=nano)
            assert [clf.labels.index(p.label) for p in clf(inputs)] == expected
        assert "2 tokens and 16 of 64 pieces survive" in (tmp_path / mode / "README.md").read_text()


def test_a_run_can_be_used_by_its_folder_its_result_and_each_stage(config, tmp_path, monkeypatch):  # noqa: F811
    result = xp.run(config.replace(method="xprompt"), tmp_path / "report")
    clf = xp.classifier(result.folder)
    data = xp.load_splits(config).validation
    inputs = [dict(e.fields) for e in data]
    predictions = clf(inputs)
    assert [clf.labels.index(p.label) for p in predictions] == xp.predict(clf.backbone, result.load_prompt(), data)
    assert xp.classifier(result)(inputs) == predictions
    monkeypatch.chdir(result.folder)
    assert xp.classifier(".")(inputs) == predictions
    assert xp.classifier(result.record["details"]["final_stage"])(inputs) == predictions
    card = PromptCard.read(result.folder / result.record["details"]["final_stage"])
    assert card.metrics == result.metrics and card.score == result.score and card.run == result.record["run"]
    stage = PromptCard.read(result.folder / "pruned_prompt")
    assert stage.metrics == {} and stage.fingerprint == card.fingerprint
    assert xp.Store(tmp_path / "report").get(result.record["run"]) == result.record


def test_a_run_whose_prompts_have_no_card_is_read_by_its_record(config, tmp_path):  # noqa: F811
    result = xp.run(config.replace(method="prompt_tuning"), tmp_path / "report")
    copied = shutil.copytree(result.folder, tmp_path / "copied")
    for name in ("xprompt.json", "README.md"):
        (copied / "tuned_prompt" / name).unlink()
    expected = xp.classifier(result)(PAIR)
    with pytest.raises(xp.BackboneError, match="Or pass backbone="):  # a record does not say where the folder lies
        xp.classifier(copied)
    for given in (copied, copied / "tuned_prompt"):
        assert xp.classifier(given, backbone=config.backbone)(PAIR) == expected


def test_a_prompt_is_used_in_the_dtype_that_it_was_tuned_in(splits, tmp_path):
    """Only so can the weights be compared, and are the labels those of its run."""
    backbone = xp.load_backbone("nano", dtype="bfloat16")
    folder = xp.SoftPrompt.init(backbone, length=4).save(tmp_path / "p", backbone=backbone, task=splits.task)
    assert xp.classifier(folder).backbone.dtype == torch.bfloat16
    assert xp.classifier(folder, dtype="float32").backbone.dtype == torch.float32
    with torch.no_grad():
        backbone.model.get_input_embeddings().weight.mul_(2.0)
    backbone.update_fingerprint()
    other = xp.SoftPrompt.init(backbone, length=4).save(tmp_path / "other", backbone=backbone, task=splits.task)
    with pytest.raises(xp.BackboneError, match="tuned on other weights"):
        xp.classifier(other)


def test_a_text_that_the_backbone_has_no_embedding_for_is_named(tuned, splits):
    backbone = xp.load_backbone("nano")
    clf = xp.classifier(tuned, backbone=backbone, task=splits.task)
    backbone.model.resize_token_embeddings(max(backbone.encode(splits.validation).ids[0]))
    with pytest.raises(xp.DataError, match="the rows of nano's embedding table"):
        clf(dict(splits.validation[0].fields))


def test_a_run_without_a_prompt_and_a_folder_without_one(config, tmp_path):  # noqa: F811
    result = xp.run(config.replace(method="majority"), tmp_path / "report")
    with pytest.raises(xp.StoreError, match="majority of rte.*left no prompt"):
        xp.classifier(result.folder)
    with pytest.raises(xp.StoreError, match="majority of rte.*left no prompt"):
        result.load_prompt()
    with pytest.raises(xp.StoreError, match="holds no prompt: needed a run's folder"):
        xp.classifier(tmp_path)
    with pytest.raises(xp.StoreError, match="holds no prompt"):
        xp.classifier(tmp_path / "nowhere")


def test_a_damaged_run_is_named_and_left_where_it_is(config, tmp_path):  # noqa: F811
    folder = xp.run(config.replace(method="prompt_tuning"), tmp_path / "report").folder
    text = (folder / "record.json").read_text()
    (folder / "record.json").write_text(text.replace('"seed": 0', '"seed": 1', 1))
    for _ in range(2):  # it was moved aside once, and the second call found nothing
        with pytest.raises(xp.StoreError, match="is damaged .*do the run again"):
            xp.classifier(folder)
    assert folder.is_dir()


def test_what_is_not_said_is_asked_for(nano, tmp_path, splits):
    bare = xp.SoftPrompt.init(nano, length=3).save(tmp_path / "bare")
    assert not (bare / "xprompt.json").exists() and not (bare / "README.md").exists()
    with pytest.raises(xp.ConfigError, match="pass task= and backbone="):
        xp.classifier(bare)
    assert xp.classifier(bare, backbone=nano, task="rte")(PAIR).label in ("entailment", "not_entailment")
    with pytest.raises(xp.ConfigError, match="both the backbone and the task"):
        xp.SoftPrompt.init(nano, length=3).save(tmp_path / "half", task=splits.task)
    with pytest.raises(xp.BackboneError, match="other weights than nano has here"):
        other = xp.SoftPrompt.load(bare)
        card = PromptCard.of(nano, splits.task).replace(fingerprint="0" * 16)
        other.card = card
        xp.classifier(other)


def test_another_prompts_card_does_not_stay_behind(folder, nano, tmp_path):
    place_ = shutil.copytree(folder, tmp_path / "again")
    xp.SoftPrompt.init(nano, length=3).save(place_)
    assert sorted(path.name for path in place_.iterdir()) == ["prompt.safetensors"]
    (place_ / "README.md").write_text("mine")
    xp.SoftPrompt.load(folder).save(place_)
    assert (place_ / "README.md").read_text() == "mine" and (place_ / "xprompt.json").exists()


def test_a_damaged_card_is_an_error(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "xprompt.json").write_text('{"format": 2}')
    with pytest.raises(xp.StoreError, match="xprompt.json cannot be read"):
        xp.classifier(copy)


def test_the_model_card_is_one_that_the_hub_takes(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["base_model"] == "nano" and front["library_name"] == "xprompt" and front["license"] == "apache-2.0"
    assert {"prompt-tuning", "xprompt"} <= set(front["tags"]) and front["pipeline_tag"] == "text-classification"
    (result,) = ModelCard(text).data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.625)
    assert "`hypothesis: {hypothesis} premise: {premise}`" in text


def test_a_custom_tasks_prompt_needs_no_task_file(nano, tmp_path):
    task = xp.CustomTask(
        name="mood", template="text: {text}", label="mood", verbalizer={"1": "True", "0": "False"}, validation_share=0.5
    )
    rows = "".join(f"the {word} sat,{i % 2}\n" for i, word in enumerate(["cat", "dog", "hill", "mat", "red", "blue"]))
    (tmp_path / "train.csv").write_text("text,mood\n" + rows)
    splits = xp.load_task(task.save(tmp_path))
    prompt = xp.SoftPrompt.init(nano, length=3, seed=0)
    saved = xp.tune(nano, prompt, splits, xp.TuneSettings(steps=1)).prompt.save(tmp_path / "out")
    shutil.rmtree(tmp_path / "train.csv", ignore_errors=True)
    (tmp_path / "task.json").unlink()
    clf = xp.classifier(saved)
    assert clf("the cat sat") == clf({"text": " the cat sat "}) and clf("the cat sat").label in ("0", "1")
    assert "mood" in repr(clf) and len(repr(clf)) < 500


def test_predict_on_the_command_line(clf, folder, tmp_path, capsys):
    assert main(["predict", str(folder), "--field", "premise=the cat sat", "--field", "hypothesis=the dog ran"]) == 0
    head, row = csv.reader(io.StringIO(capsys.readouterr().out))
    assert head == ["label", "p(entailment)", "p(not_entailment)"] and row[0] == clf(PAIR).label
    (tmp_path / "in.csv").write_text("premise,hypothesis\nthe cat sat,the dog ran\nit was,red\n")
    (tmp_path / "in.jsonl").write_text(json.dumps(PAIR) + "\n")
    assert (
        main(["predict", str(folder), "--file", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out.csv")]) == 0
    )
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3
    (tmp_path / "in.csv").write_text("")
    assert main(["predict", str(folder), "--file", str(tmp_path / "in.csv")]) == 2
    assert "in.csv is empty" in capsys.readouterr().err
    assert main(["predict", str(folder), "--file", str(tmp_path / "in.jsonl")]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith(clf(PAIR).label)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "give --text, --field"),
        (["--text", "a", "--file", "b.csv"], "too much"),
        (["--field", "premise"], "give NAME=TEXT"),
        (["--field", "a=1", "--field", "a=2"], "each name once"),
        (["--text", "a"], "takes 2 texts; give --field hypothesis=TEXT --field premise=TEXT"),
        (["--file", "x.xlsx"], "needed one of .csv, .tsv, .jsonl"),
        (["--file", "nowhere.csv"], "nowhere.csv"),
    ],
    ids=" ".join,
)
def test_predict_says_what_is_missing(folder, arguments, words, capsys):
    assert main(["predict", str(folder), *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "output, words",
    [
        ("in.csv", "is the --file that is read"),
        ("link.csv", "is the --file that is read"),
        (".", "is no file"),
        ("in.csv/more/out.csv", "cannot be written"),
    ],
)
def test_where_labels_cannot_go_is_said_before_a_backbone_is_loaded(tmp_path, monkeypatch, capsys, output, words):
    (tmp_path / "in.csv").write_text("premise,hypothesis\na,b\n")
    (tmp_path / "link.csv").symlink_to("in.csv")
    monkeypatch.setattr("xprompt.runs.classifier.classifier", lambda *_, **__: pytest.fail("it was loaded"))
    assert main(["predict", "x", "--file", str(tmp_path / "in.csv"), "--output", str(tmp_path / output)]) == 2
    assert words in capsys.readouterr().err
    assert (tmp_path / "in.csv").read_text() == "premise,hypothesis\na,b\n"


def test_where_labelling_fails_the_old_labels_stay_and_no_folder_is_made(folder, tmp_path):
    (tmp_path / "in.csv").write_text("premise,hypothesis\na,b\n,c\n")
    (tmp_path / "out.csv").write_text("old")
    for output in ("out.csv", "more/out.csv"):
        given = ["--file", str(tmp_path / "in.csv"), "--output", str(tmp_path / output)]
        assert main(["predict", str(folder), *given]) == 2
    assert (tmp_path / "out.csv").read_text() == "old" and not (tmp_path / "more").exists()


def test_labels_are_written_whole_or_not_at_all_where_a_link_leads(clf, folder, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "out.csv").symlink_to("data/out.csv")
    fields = [word for name, text in PAIR.items() for word in ("--field", f"{name}={text}")]
    assert main(["predict", str(folder), *fields, "--output", str(tmp_path / "out.csv")]) == 0
    assert (tmp_path / "out.csv").is_symlink()
    written = (tmp_path / "data" / "out.csv").read_text()
    assert written.splitlines()[1].startswith(clf(PAIR).label)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert main(["predict", str(folder), *fields, "--output", str(tmp_path / "out.csv")]) == 2
    assert [path.read_text() for path in (tmp_path / "data").iterdir()] == [written]


def test_a_files_fault_is_named_with_its_line(folder, tmp_path, capsys):
    (tmp_path / "in.csv").write_text("premise,hypothesis\na,b\n,c\n")
    assert main(["predict", str(folder), "--file", str(tmp_path / "in.csv")]) == 2
    assert "in.csv, line 3, field 'premise'" in capsys.readouterr().err
