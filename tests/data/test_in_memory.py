"""A custom task of rows in memory: the fingerprint of its CSV, whatever the form; and what looks wrong is said."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pandas as pd
import pytest

import xprompt as xp
from xprompt.__main__ import main
from xprompt.data.summary import describe_splits, pieces_a_word, warnings_about

WORDS = ["cat", "dog", "hill", "mat", "red", "blue", "fox", "hen", "owl", "elk"]
ROWS = [{"text": f" The {word}, it said, sat. ", "mood": int(i % 3 == 0), "n": i} for i, word in enumerate(WORDS)]
TASK = {"template": "text: {text} number: {n}", "label": "mood", "label_words": {0: "calm", 1: "wild"}, "cut": "text"}


def from_csv(folder, rows, validation=None, **more):
    declared = {"name": "custom"} | TASK | {"verbalizer": {str(k): v for k, v in TASK["label_words"].items()}} | more
    del declared["label_words"]
    pd.DataFrame(rows).to_csv(folder / "train.csv", index=False)
    if validation is not None:
        pd.DataFrame(validation).to_csv(folder / "validation.csv", index=False)
    (folder / "task.json").write_text(json.dumps(declared))
    return xp.load_task(folder / "task.json")


FORMS = {
    "frame": lambda rows: pd.DataFrame(rows, index=range(100, 100 + len(rows))),
    "rows": list,
    "generator": iter,
    "dataset": datasets.Dataset.from_list,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_fingerprint_of_the_csv(form, tmp_path):
    held_out = xp.task_from(FORMS[form](ROWS), **TASK, validation_share=0.3)
    assert held_out.fingerprint == from_csv(tmp_path, ROWS, validation_share=0.3).fingerprint
    both = xp.task_from(FORMS[form](ROWS[:6]), **TASK, validation=FORMS[form](ROWS[6:]))
    assert both.fingerprint == from_csv(tmp_path, ROWS[:6], ROWS[6:]).fingerprint
    assert both.fingerprint != held_out.fingerprint
    assert both.hold_out(0.3, seed=1).fingerprint == xp.load_task(tmp_path).hold_out(0.3, seed=1).fingerprint


def test_dicts_of_splits_and_the_default_share(tmp_path):
    both = xp.task_from(ROWS[:6], validation=ROWS[6:], **TASK).fingerprint
    for name in ("validation", "val", "dev"):
        assert xp.task_from({"train": ROWS[:6], name: pd.DataFrame(ROWS[6:]), "test": []}, **TASK).fingerprint == both
    splits = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS[:6]), "validation": datasets.Dataset.from_list(ROWS[6:])}
    )
    assert xp.task_from(splits, **TASK).fingerprint == both
    assert len(xp.task_from(ROWS, **TASK).validation) == 2


def test_truth_values_are_written_as_in_a_csv(tmp_path):
    rows = [row | {"mood": bool(row["mood"])} for row in ROWS]
    words = {False: "calm", True: "wild"}
    in_memory = xp.task_from(pd.DataFrame(rows), **TASK | {"label_words": words}, validation_share=0.3)
    verbalizer = {"False": "calm", "True": "wild"}
    assert in_memory.fingerprint == from_csv(tmp_path, rows, validation_share=0.3, verbalizer=verbalizer).fingerprint


@pytest.mark.parametrize("kind", ["float32", "float16", "float64"])
def test_numbers_are_written_in_their_own_precision(kind, tmp_path):
    """As in a CSV of the same table: 1.1, and not the 1.100000023841858 that a float32 is in Python's own numbers."""
    frame = pd.DataFrame(ROWS).assign(n=np.array([1.1, 0.3, 2.0, 1e-3, 1e7] * 2, dtype=kind))
    if kind == "float16":
        frame["n"] = frame["n"].clip(upper=1000)
    in_memory = xp.task_from(frame, **TASK, validation_share=0.3)
    assert in_memory.fingerprint == from_csv(tmp_path, frame, validation_share=0.3).fingerprint
    data_set = datasets.Dataset.from_pandas(frame)
    assert in_memory.fingerprint == xp.task_from(data_set, **TASK, validation_share=0.3).fingerprint


def test_class_names_of_a_hub_data_set(monkeypatch):
    features = datasets.Features(
        {"text": datasets.Value("string"), "mood": datasets.ClassLabel(names=["calm", "wild"])}
    )
    data = datasets.Dataset.from_list([{"text": r["text"], "mood": r["mood"]} for r in ROWS], features=features)
    by_name = {"template": "{text}", "label": "mood", "label_words": {"wild": "Wild", "calm": "Calm"}}
    splits = xp.task_from(data, **by_name)
    assert splits.task.label_values == ("wild", "calm")
    assert splits.task.label_words[splits.train[0].label] == ("Wild" if splits.train[0].uid in "0369" else "Calm")
    assert xp.task_from(data, template="{text}", label="mood").task.label_words == ("calm", "wild")
    by_number = xp.task_from(data, **by_name | {"label_words": {0: "Calm", 1: "Wild"}})
    assert by_number.task.label_values == ("0", "1")
    monkeypatch.setattr(datasets, "load_dataset", lambda name, revision: datasets.DatasetDict({"train": data}))
    monkeypatch.setattr("xprompt.data.readers.reachable", lambda: True)
    assert xp.task_from("mine/moods", **by_name).fingerprint == splits.fingerprint


def test_a_data_set_that_cannot_be_loaded_is_one_sentence(monkeypatch):
    def fails(name, revision):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", fails)
    monkeypatch.setattr("xprompt.data.readers.reachable", lambda: True)
    with pytest.raises(xp.DataError, match="'mine/moods' could not be loaded .*no route.*pass a DataFrame"):
        xp.task_from("mine/moods", **TASK)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: pytest.fail("asked where nobody answers"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("xprompt.data.readers.reachable", lambda: False)
    with pytest.raises(xp.DataError, match="'mine/moods' could not be loaded .*nobody answers"):
        xp.task_from("mine/moods", **TASK)


def test_a_label_column_that_is_not_there_or_holds_one_label_is_named():
    with pytest.raises(xp.ConfigError, match="no column 'mod' for the label; there are text, mood, n.*'mood'"):
        xp.task_from(ROWS, template="{text}", label="mod")
    with pytest.raises(xp.ConfigError, match="'mood' holds 1 different labels, needed 2 to 20"):
        xp.task_from([row | {"mood": "calm"} for row in ROWS], template="{text}", label="mood")


@pytest.mark.parametrize(
    "data, changes, words",
    [
        (pd.DataFrame(ROWS).assign(text=[None] + ["a"] * 9), {}, "train, row 0, field 'text': given an empty cell"),
        (pd.DataFrame(ROWS).assign(mood=[0.5] + [1] * 9), {}, "train, row 0, field 'mood': given '0.5'"),
        (ROWS, {"label": "moood"}, "train, row 0, field 'moood': given no such column (there are text, mood, n)"),
        (ROWS[:3] + [{"text": "a"}], {}, "row 3, field 'n'"),
        (ROWS[:3] + ["a"], {}, "row 3: given str 'a'"),
        (ROWS, {"label_words": ["calm", "wild"]}, "needed label → word"),
        (ROWS, {"template": "{text.upper}"}, "braces hold the plain name"),
        (ROWS, {"colour": 3}, "colour"),
        (ROWS, {"verbalizer": {"0": "calm", "1": "wild"}}, "label_words here: rename it"),
        (ROWS, {"name": "rte"}, "the name 'rte' is taken"),
        (ROWS, {"validation": ROWS, "validation_share": 0.2}, "one of them"),
        ({"train": ROWS, "dev": ROWS}, {"validation": ROWS}, "one of them"),
        ({"text": ["a"], "mood": [1]}, {}, "a dict with 'text', 'mood'"),
        ({"test": ROWS}, {}, "a dict with 'test'"),
        (ROWS, {"label": "text", "template": "{n}", "cut": "", "label_words": None, "validation": ROWS}, None),
        ([], {}, "without a single example"),
        (3, {}, "given int 3"),
        (pd.DataFrame([[1, 2]], columns=["text", "text"]), {}, "column 'text': given it twice"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_named(data, changes, words):
    if words is None:
        assert len(xp.task_from(data, **TASK | changes).task.label_words) == 10
        return
    with pytest.raises(xp.XPromptError) as caught:
        xp.task_from(data, **TASK | changes)
    assert words in str(caught.value)


def test_a_folder_with_a_declaration_is_a_task(tmp_path):
    splits = from_csv(tmp_path, ROWS, validation_share=0.3)
    assert xp.load_task(tmp_path).fingerprint == xp.load_task(str(tmp_path)).fingerprint == splits.fingerprint
    with pytest.raises(xp.ConfigError, match="Unknown task"):
        xp.load_task(tmp_path.parent)


def test_what_looks_wrong_is_said():
    assert warnings_about(xp.load_task("cb")) == []
    calm = [row | {"mood": 0} for row in ROWS]
    said = " ".join(warnings_about(xp.task_from(calm, **TASK, validation=[*calm[:2], calm[0] | {"mood": 1}])))
    assert "train has one label alone" in said and "3 of 3 validation inputs are in train too" in said
    assert "1 inputs of validation stand there with different labels" in said
    three = {"label_words": {0: "a", 1: "b", 2: "c"}}
    said = " ".join(warnings_about(xp.task_from(ROWS, **TASK | three, validation=calm)))
    assert "train has no example of 2." in said and "validation has one label alone" in said
    spelled = [row | {"text": "zxqj wvkkq bqxz"} for row in ROWS]
    assert "--profile smollm2" in " ".join(warnings_about(xp.task_from(spelled, **TASK)))
    grouped = [row | {"who": f"7f3a9c1e-zxqj-4b2d-{i:012d}"} for i, row in enumerate(ROWS)]
    in_groups = xp.task_from(grouped, **TASK, group="who", validation=grouped).train
    assert pieces_a_word(in_groups) == pieces_a_word(xp.task_from(ROWS, **TASK, validation=ROWS).train) > 0


def test_a_task_in_memory_cannot_be_loaded_by_itself():
    task = xp.task_from(ROWS, **TASK).task
    for few_shot in (None, "official"):
        with pytest.raises(xp.DataError, match="'custom': given a task in memory, which has no files; .*task_from"):
            xp.load_task(task, few_shot=few_shot)


def test_check_shows_two_examples_counts_and_warnings(tmp_path, capsys):
    splits = from_csv(tmp_path, ROWS, validation_share=0.3)
    assert main(["check", str(tmp_path / "task.json")]) == 0
    shown = capsys.readouterr().out
    assert describe_splits(splits) in shown and shown.count("→") == 2
    assert splits.task.render(splits.train[0]) in shown and f"train: {len(splits.train)} examples" in shown
    (tmp_path / "train.csv").write_text("text,mood\na,7\n")
    assert main(["check", str(tmp_path)]) == 2
    assert "train.csv, line 2, field 'n'" in capsys.readouterr().err
