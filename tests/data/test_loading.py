"""Sources, errors, samples and held-out parts, on small invented folders."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xprompt as xp
from tests.conftest import empty_release
from tests.tasks.test_superglue import EXAMPLES
from xprompt import reporting as rp
from xprompt.data.loading import load_task
from xprompt.data.splits import Splits, TaskDataset, stratified_sample
from xprompt.errors import ConfigError, DataError, shown
from xprompt.tasks.example import Example
from xprompt.tasks.registry import get_task
from xprompt.tasks.superglue import TASKS

NLI = ("entailment", "not_entailment")


def rte(i: int, label: Any = None) -> dict[str, Any]:
    return {"premise": f"Premise {i}.", "hypothesis": f"claim {i}", "label": label or NLI[i % 2], "idx": i}


def multirc(p: int, questions: int = 2, answers: int = 2, text: str = "") -> dict[str, Any]:
    return {"idx": p, "passage": {"text": text or f"Paragraph {p}.", "questions": [
        {"idx": q, "question": f"q{q}?", "answers": [
            {"idx": a, "text": f"a{a}", "label": (p + q + a) % 2} for a in range(answers)]}
        for q in range(questions)]}}  # fmt: skip


def write(root: Path, name: str, lines: list[Any]) -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder in the release's layout: RTE (10 and 4), MultiRC (6 and 2 paragraphs), COPA with validation only."""
    write(tmp_path, "RTE/train.jsonl", [rte(i) for i in range(10)])
    write(tmp_path, "RTE/val.jsonl", [rte(i) for i in range(20, 24)])
    write(tmp_path, "MultiRC/train.jsonl", [multirc(p) for p in range(6)])
    write(tmp_path, "MultiRC/val.jsonl", [multirc(p) for p in range(6, 8)])
    write(tmp_path, "fewglue/RTE/train.jsonl", [rte(i) for i in (3, 5)])
    return write(tmp_path, "COPA/val.jsonl", [EXAMPLES["copa"][0]])


def of(labels: list[int], texts: list[str] | None = None) -> Splits:
    """RTE splits with these training labels (and premises)."""
    task = get_task("rte")
    texts = texts or [f"premise {i}" for i in range(len(labels))]
    fields = [{"premise": text, "hypothesis": "h"} for text in texts]
    records = (Example(str(i), str(i), f, y) for i, (f, y) in enumerate(zip(fields, labels, strict=True)))
    return Splits(task, TaskDataset(task, "train", tuple(records)), TaskDataset(task, "validation", ()), "test")


# Sources


def test_a_folder_as_released(root: Path):
    splits = load_task("rte", root)
    assert (len(splits.train), len(splits.validation), splits.selection) == (10, 4, None)
    assert (splits.train.split, splits.validation.split, splits.source) == ("train", "validation", str(root))
    assert splits.train.labels == [0, 1] * 5 and splits.train.groups == [str(i) for i in range(10)]
    assert splits.train[1].fields == {"premise": "Premise 1.", "hypothesis": "claim 1"}
    assert isinstance(splits.train[:3], TaskDataset) and len(splits.train[:3]) == 3


@pytest.mark.parametrize("name", EXAMPLES)
def test_parquet_the_hub_and_the_release_give_the_same_records(name, tmp_path, monkeypatch):
    line, row, _, _ = EXAMPLES[name]
    folder = TASKS[name].folder
    for file in ("train", "val"):
        write(tmp_path / "official", f"{folder}/{file}.jsonl", [line])
    for file in ("train-00000-of-00001", "validation-00000-of-00001"):
        (tmp_path / "tables" / name).mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "tables" / name / f"{file}.parquet")
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return [row]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr("xprompt.data.readers.reachable", lambda: True)
    released, tables = load_task(name, tmp_path / "official"), load_task(name, str(tmp_path / "tables"))
    hub = load_task(name, "hub", revision="abc")
    assert released.train == tables.train == hub.train and released.validation == tables.validation
    assert released.fingerprint == tables.fingerprint == hub.fingerprint
    assert hub.source == "hub@abc"
    assert asked[0] == (("aps/super_glue", name), {"split": "train", "revision": "abc"})
    assert not any("trust_remote_code" in kwargs for _, kwargs in asked)


def test_parquet_in_several_pieces_is_read_whole(tmp_path):
    (tmp_path / "rte").mkdir()
    rows = [rte(i) | {"label": i % 2} for i in range(6)]
    for part, split in ((0, "train"), (1, "train"), (2, "validation")):
        table = pyarrow.Table.from_pylist(rows[2 * part : 2 * part + 2])
        pyarrow.parquet.write_table(table, tmp_path / "rte" / f"{split}-0000{part}.parquet")
    splits = load_task("rte", tmp_path)
    assert [r.uid for r in splits.train] == list("0123") and len(splits.validation) == 2


def test_a_damaged_table_is_named(tmp_path):
    (tmp_path / "rte").mkdir()
    (tmp_path / "rte" / "train.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"^rte/train\.parquet: given a table that cannot be read"):
        load_task("rte", tmp_path)


def test_an_unreachable_hub_is_one_sentence_with_the_fix(monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("Max retries exceeded\nwith a long\ntrace")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    monkeypatch.setattr("xprompt.data.readers.reachable", lambda: True)
    with pytest.raises(DataError, match="Could not get rte .*Fix: connect and try again, or pass a folder") as caught:
        load_task("rte", "hub")
    assert "\n" not in str(caught.value)


def test_where_nobody_answers_its_client_is_asked_only_for_what_it_has(monkeypatch, tmp_path):
    """Which would try for half a minute."""
    monkeypatch.setattr("datasets.load_dataset", lambda *arguments, **options: [EXAMPLES["rte"][1]])
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("xprompt.data.readers.reachable", lambda: False)
    with pytest.raises(DataError, match="Could not get rte .*Fix: connect and try again, or pass a folder"):
        load_task("rte", "hub")
    (tmp_path / "aps___super_glue" / "rte").mkdir(parents=True)
    assert len(load_task("rte", "hub").train) == 1


def test_the_embedded_generator(monkeypatch):
    from xprompt.nano import generator

    made = {"train": [rte(i) for i in range(5)], "validation": [rte(9)]}
    monkeypatch.setattr(generator, "raw_examples", lambda task, split: made[split])
    splits = load_task("rte")
    assert (len(splits.train), len(splits.validation), splits.source) == (5, 1, "nano")
    made["train"][3]["label"] = "perhaps"
    with pytest.raises(DataError, match="nano rte/train, example 4, field 'label'"):
        load_task("rte", "nano")


def test_a_changed_task(root: Path):
    from dataclasses import replace

    task = replace(get_task("rte"), template="{premise} so {hypothesis}")
    changed, known = load_task(task, root), load_task("rte", root)
    assert task.render(changed.train[0]) == "Premise 0. so claim 0"
    assert changed.train.examples == known.train.examples and changed.fingerprint != known.fingerprint


# Errors


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"premise": "x",', r"RTE/train\.jsonl, line 3, column \d+: given malformed JSON"),
        ('["x"]', r"RTE/train\.jsonl, line 3: given '\[\"x\"\]'; needed one JSON object a line"),
        ({"premise": "x", "label": "entailment"}, r"RTE/train\.jsonl, line 3, field 'hypothesis': given a line wit"),
        (rte(7) | {"hypothesis": 7}, r"RTE/train\.jsonl, line 3, field 'hypothesis': given 7; needed a text"),
        (rte(7, "neutral"), r"RTE/train\.jsonl, line 3, field 'label': given 'neutral'; needed one of"),
        ({"premise": "x", "hypothesis": "y", "idx": 7}, r"RTE/train\.jsonl, line 3, field 'label': .*without a label"),
        (rte(0), r"RTE/train\.jsonl, line 3, field 'idx': given 0, used before at .*train\.jsonl, line 1;"),
    ],
)
def test_a_bad_line_is_named_with_file_line_field_and_fix(tmp_path, line, complaint):
    write(tmp_path, "RTE/train.jsonl", [rte(0), rte(1), line])
    write(tmp_path, "RTE/val.jsonl", [rte(9)])
    with pytest.raises(DataError, match=rf"{complaint}.*Fix: "):
        load_task("rte", tmp_path)


def test_blank_lines_are_counted_but_not_read(tmp_path):
    write(tmp_path, "RTE/train.jsonl", [rte(0), "", rte(1, "what")])
    with pytest.raises(DataError, match="line 3, field 'label'"):
        load_task("rte", tmp_path)


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_other_peoples_line_ends_and_marks_do_no_harm(tmp_path, ending):
    lines = [json.dumps(rte(0) | {"premise": "A\u2028b \u00e9."}, ensure_ascii=False), json.dumps(rte(1))]
    for name in ("train", "val"):
        write(tmp_path, f"RTE/{name}.jsonl", [])
        (tmp_path / f"RTE/{name}.jsonl").write_bytes(("\ufeff" + ending.join(lines)).encode())
    assert load_task("rte", tmp_path).train[0].fields["premise"] == "A\u2028b \u00e9."


def test_bytes_that_are_no_text_are_refused(tmp_path):
    write(tmp_path, "RTE/train.jsonl", [])
    (tmp_path / "RTE" / "train.jsonl").write_bytes(b'{"premise": "caf\xe9"}')
    with pytest.raises(DataError, match=r"RTE/train\.jsonl, line 1: given the byte 0xe9, .*needed UTF-8"):
        load_task("rte", tmp_path)


def test_an_empty_split_is_refused(root: Path):
    write(root, "RTE/val.jsonl", [""])
    with pytest.raises(DataError, match="rte, split validation: given a source without a single example"):
        load_task("rte", root)
    write(root, "MultiRC/train.jsonl", [multirc(0, questions=0)])
    with pytest.raises(DataError, match="multirc, split train"):
        load_task("multirc", root)


def test_an_absent_split_is_an_error_unless_it_is_not_required(root: Path):
    with pytest.raises(DataError, match=r"no train split for copa; needed COPA/train\.jsonl.*require_train=False"):
        load_task("copa", root)
    splits = load_task("copa", root, require_train=False)
    assert (len(splits.train), len(splits.validation)) == (0, 1)
    (root / "RTE" / "val.jsonl").unlink()
    with pytest.raises(DataError, match=r"no validation split for rte; needed RTE/val\.jsonl"):
        load_task("rte", root)
    assert len(load_task("rte", root, require_validation=False).train) == 10


def test_an_unknown_source_or_task_is_refused(root: Path):
    with pytest.raises(DataError, match="neither a known name nor a folder; needed 'nano', 'hub' or an existing"):
        load_task("rte", root / "nowhere")
    with pytest.raises(ConfigError, match="Unknown task 'RTE'"):
        load_task("RTE", root)


# Few-shot and limits


def test_the_official_few_shot_file(root: Path):
    splits = load_task("rte", root, few_shot="official")
    assert [r.uid for r in splits.train] == ["3", "5"] and len(splits.validation) == 4
    (root / "RTE" / "train.jsonl").unlink()
    assert len(load_task("rte", root, few_shot="official").train) == 2
    for source in (root, "nano"):
        with pytest.raises(DataError, match=r"needed a folder with fewglue/MultiRC/train\.jsonl"):
            load_task("multirc", source, few_shot="official")


def test_few_shot_samples_by_seed(root: Path):
    samples = [[r.uid for r in load_task("rte", root, few_shot=4, seed=seed).train] for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    assert all(len(set(sample)) == 4 for sample in samples)
    assert len(load_task("rte", root, few_shot=4).validation) == 4


def test_few_shot_counts_whole_questions(root: Path):
    train = load_task("multirc", root, few_shot=5).train
    assert Counter(Counter(train.groups).values()) == {2: 5}


@pytest.mark.parametrize("shots", [0, -1, 11, "32", 2.0])
def test_an_impossible_few_shot_is_refused(root: Path, shots):
    with pytest.raises(DataError, match="few_shot for rte: given .*needed 'official' or 1 to 10"):
        load_task("rte", root, few_shot=shots)


def test_limits_are_the_same_for_every_seed_and_keep_questions_whole(root: Path):
    one, two = (load_task("multirc", root, limit_train=7, limit_validation=3, seed=seed) for seed in (0, 1))
    assert one == two
    assert (len(one.train), len(one.validation)) == (6, 2)
    assert set(Counter(one.train.groups).values()) == {2}
    assert len(load_task("rte", root, limit_train=3, limit_validation=99).validation) == 4
    with pytest.raises(DataError, match="Limit on rte's train split: given 0; needed at least 1"):
        load_task("rte", root, limit_train=0)


# Fingerprints


def test_a_fingerprint_follows_the_contents_and_nothing_else(root: Path, tmp_path_factory):
    first, again = load_task("rte", root), load_task("rte", root)
    assert first.fingerprint == again.fingerprint and len(first.train.fingerprint) == 64
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("train", "val"):
        write(elsewhere, f"RTE/{name}.jsonl", (root / f"RTE/{name}.jsonl").read_text().splitlines())
    assert load_task("rte", elsewhere).fingerprint == first.fingerprint
    write(elsewhere, "RTE/val.jsonl", [rte(i) for i in range(20, 23)] + [rte(23) | {"premise": "Premise 23!"}])
    changed = load_task("rte", elsewhere)
    assert changed.train.fingerprint == first.train.fingerprint
    assert changed.validation.fingerprint != first.validation.fingerprint
    assert changed.fingerprint != first.fingerprint
    assert len({first.fingerprint} | {first.hold_out(0.2, seed=s).fingerprint for s in (0, 1)}) == 3


# The held-out part


@settings(deadline=None)
@given(st.lists(st.integers(0, 1), min_size=2, max_size=80), st.floats(0.02, 0.9), st.integers(0, 3))
def test_hold_out_is_disjoint_complete_and_stratified(labels, fraction, seed):
    splits = of(labels)
    wanted = max(1, round(fraction * len(labels)))
    if wanted == len(labels):
        with pytest.raises(DataError, match="needed some examples on both sides"):
            splits.hold_out(fraction, seed)
        return
    held = splits.hold_out(fraction, seed)
    assert held.selection is not None and held.selection.split == "selection"
    assert Counter(held.train.examples) + Counter(held.selection.examples) == Counter(splits.train.examples)
    assert len(held.selection) == wanted
    whole, part = Counter(labels), Counter(held.selection.labels)
    shares = {label: wanted * count / len(labels) for label, count in whole.items()}
    assert all(abs(part[label] - share) < 1 for label, share in shares.items()) or min(shares.values()) < 0.5
    assert wanted < len(whole) or all(part[label] for label in whole if whole[label] > 1)
    assert held == splits.hold_out(fraction, seed)
    assert [int(r.uid) for r in held.train] == sorted(int(r.uid) for r in held.train)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), min_size=20, max_size=60), st.integers(0, 3))
def test_equal_inputs_stay_on_one_side(pairs, seed):
    splits = of([label for _, label in pairs], [f"premise {text}" for text, _ in pairs])
    try:
        held = splits.hold_out(0.4, seed)
    except DataError as error:
        assert "every block whole" in str(error)  # all too large for a quota: refused, never divided
        return
    assert held.selection is not None
    assert not {r.fields["premise"] for r in held.train} & {r.fields["premise"] for r in held.selection}


def test_multirc_is_held_out_by_paragraph(tmp_path):
    texts = [f"Paragraph {p % 9}." for p in range(12)]  # three texts stand twice, under different numbers
    for name in ("train", "val"):
        write(tmp_path, f"MultiRC/{name}.jsonl", [multirc(p, 3, 4, text) for p, text in enumerate(texts)])
    splits = load_task("multirc", tmp_path)
    for seed in range(5):
        held = splits.hold_out(0.25, seed)
        assert held.selection is not None and 0 < len(held.selection) <= 36
        for part in (lambda r: r.fields["paragraph"], lambda r: r.group):
            assert not set(map(part, held.train)) & set(map(part, held.selection))
        assert set(Counter(held.selection.groups).values()) == {4}


def test_files_that_a_task_lacks_are_named_before_anything_is_run(tmp_path):
    empty_release(tmp_path, "RTE", "CB", "BoolQ", "fewglue/BoolQ")
    (tmp_path / "CB" / "val.jsonl").unlink()
    (tmp_path / "BoolQ" / "train.jsonl").unlink()
    (tmp_path / "wic").mkdir()
    for name in ("train", "validation"):
        (tmp_path / "wic" / f"{name}-00000.parquet").touch()
    folder = str(tmp_path)
    assert rp.choose_source(folder, ["rte", "wic"]) == rp.choose_source(folder, ["boolq"]) == folder
    with pytest.raises(DataError, match="lacks CB/val.jsonl, COPA/train.jsonl, COPA/val.jsonl: add these files"):
        rp.choose_source(folder, ["rte", "cb", "copa"])
    assert rp.grid("nano", "boolq", ["xprompt"], [0], data_dir=folder, few_shot="official")
    for few_shot in (None, 32):
        with pytest.raises(DataError, match="lacks BoolQ/train.jsonl: add"):
            rp.grid("nano", "boolq", ["xprompt"], [0], data_dir=folder, few_shot=few_shot)
    with pytest.raises(DataError, match="lacks fewglue/RTE/train.jsonl: add"):
        rp.grid("nano", "rte", ["xprompt"], [0], data_dir=folder, few_shot="official")


def test_wscs_candidates_for_one_pronoun_stay_on_one_side():
    splits = load_task("wsc", "nano")
    assert len({example.fields["text"] for example in splits.train}) < len(splits.train), "some share a sentence"
    for seed in range(3):
        held = splits.hold_out(0.15, seed, at_most=600)
        assert held.selection is not None and len(held.selection) == 600
        assert not {r.fields["text"] for r in held.train} & {r.fields["text"] for r in held.selection}


def test_hold_out_by_seed_and_with_an_upper_limit():
    splits = of([0, 1] * 50)
    assert splits.hold_out(0.2, seed=0) == splits.hold_out(0.2) != splits.hold_out(0.2, seed=1)
    limited = splits.hold_out(0.5, at_most=10).selection
    assert limited is not None and Counter(limited.labels) == {0: 5, 1: 5}


@pytest.mark.parametrize("wrong", [{"fraction": 0.0}, {"fraction": 1.0}, {"fraction": 0.5, "at_most": 0}])
def test_hold_out_refuses_what_cannot_be(wrong):
    with pytest.raises(DataError, match="needed 0 < fraction < 1 and at_most >= 1"):
        of([0, 1] * 5).hold_out(**wrong)
    with pytest.raises(DataError, match="hold out once"):
        of([0, 1] * 5).hold_out(0.5).hold_out(0.5)
    with pytest.raises(DataError, match="given 0 examples in 0 blocks"):
        of([]).hold_out(0.5)


def test_a_rare_label_is_held_out_too():
    held = of([0] * 50 + [1, 1] + [0] * 50).hold_out(0.1)
    assert held.selection is not None and Counter(held.selection.labels) == {0: 9, 1: 1}
    assert Counter(held.train.labels) == {0: 91, 1: 1}


def test_a_label_of_one_example_stays_in_train_and_is_named():
    with pytest.warns(UserWarning, match="split selection .* has no example of label 'not_entailment'"):
        held = of([0] * 99 + [1]).hold_out(0.1)
    assert 1 in held.train.labels


def test_importing_data_needs_no_torch():
    import subprocess
    import sys

    code = (
        "import sys, xprompt.data.loading, xprompt.tasks.superglue; "
        "print('torch' in sys.modules, 'datasets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_stratified_sample_has_the_wholes_shares_whatever_the_order():
    train = xp.load_task("cb", source="nano").train
    by_label = replace(train, examples=tuple(sorted(train.examples, key=lambda example: example.label)))
    for data in (train, by_label):
        for size in (3, 32, 501):
            sample = stratified_sample(data, size, seed=0)
            assert len(sample) == size == len({example.uid for example in sample})
            shares, whole = Counter(sample.labels), Counter(data.labels)
            assert all(abs(shares[label] - size * whole[label] / len(data)) <= 1 for label in whole)
            assert all(shares.values())
    assert stratified_sample(train, 32, 0).fingerprint == stratified_sample(train, 32, 0).fingerprint
    assert stratified_sample(train, 32, 0).fingerprint != stratified_sample(train, 32, 1).fingerprint
    assert stratified_sample(train, None, 0) is train


def test_a_stratified_sample_keeps_a_rare_label():
    train = xp.load_task("rte", source="nano").train
    rare = [e for e in train if e.label][:1]
    skewed = replace(train, examples=tuple([e for e in train if not e.label][:200] + rare))
    assert Counter(stratified_sample(skewed, 10, 0).labels) == {0: 9, 1: 1}


@pytest.mark.parametrize("value", [0, -1, True, "5", 2.0, None, float("nan"), [], 10**5000], ids=shown)
@pytest.mark.parametrize("name", ["few_shot", "limit_train", "limit_validation", "seed"])
def test_counts_and_seeds_are_whole_numbers(name, value):
    if (name, value) == ("seed", 0) or (value is None and name != "seed"):
        return
    if value == 10**5000 and name != "few_shot":  # a limit above what there is, a seed like any other
        return
    with pytest.raises(DataError, match=f"({name}|Limit on cb's {name[6:]} split).*given "):
        load_task("cb", "nano", **{name: value})


@pytest.mark.parametrize("source", [5, None, {}, "a\0", "x" * 5000, "~nobody-here", "\ud800"], ids=shown)
def test_a_source_is_a_name_or_a_folder(source):
    for few_shot in (None, "official"):
        with pytest.raises(DataError, match="(?i)source.*Fix: "):
            load_task("cb", source, few_shot=few_shot)


@pytest.mark.parametrize(
    "values",
    [
        {"fraction": "0.2"},
        {"fraction": float("nan")},
        {"at_most": 0},
        {"at_most": "5"},
        {"at_most": 2.0},
        {"seed": "x"},
    ],
)
def test_holding_out_names_what_it_was_given(values):
    with pytest.raises(DataError, match=next(iter(values))):
        load_task("cb").hold_out(**values)


def test_numpys_whole_numbers_are_whole_numbers():
    splits = load_task("cb", few_shot=np.int64(8), limit_validation=np.int32(9), seed=np.int64(3))
    assert splits.fingerprint == load_task("cb", few_shot=8, limit_validation=9, seed=3).fingerprint
