"""What training may change, what it must not, and that side by side is the same as one after another."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import xprompt as xp
from tests.conftest import tiny_data, tiny_model
from xprompt.backbones.loading import wrap
from xprompt.data.splits import Splits
from xprompt.errors import NotFiniteError
from xprompt.tasks.registry import get_task
from xprompt.training.callbacks import Callbacks
from xprompt.training.candidate import Candidate
from xprompt.training.evaluation import evaluate_many
from xprompt.training.optimizer import make_optimizer

QUICK = xp.TuneSettings(optimizer="adamw", learning_rate=0.05, steps=6, eval_every=2, batch_size=8, eval_batch_size=8)


def start(backbone, seed=0, length=5, dtype=None):
    return xp.SoftPrompt.init(backbone, length, pieces=4, seed=seed).to(dtype or backbone.dtype)


def test_learns_a_task_that_it_can(kind):
    backbone = tiny_model(kind)
    same = tiny_data(24, "train")
    splits = Splits(get_task("rte"), same, same, "memorised")
    settings = QUICK.replace(steps=150, eval_every=50, batch_size=24, learning_rate=0.1)
    result = xp.tune(backbone, start(backbone, length=10), splits, settings)
    first, last = result.history.entries[0], result.history.entries[-1]
    assert last["selection_loss"] < first["selection_loss"] - 0.03
    assert result.history.best_score > first["selection_score"]


def test_only_the_prompt_changes(backbone, splits):
    before = copy.deepcopy(backbone.model.state_dict())
    given = start(backbone)
    given_values = given.embeddings.detach().clone()
    tuned, history = xp.tune(backbone, given, splits, QUICK)
    assert torch.equal(given.embeddings, given_values), "the prompt given is not the one tuned"
    assert all(torch.equal(before[k], v) for k, v in backbone.model.state_dict().items())
    assert all(p.grad is None for p in backbone.model.parameters())
    assert [e["step"] for e in history.entries] == [0, 2, 4, 6]
    xp.fine_tune(backbone, splits, QUICK)
    assert all(torch.equal(before[k], v) for k, v in backbone.model.state_dict().items())
    assert not any(p.requires_grad for p in backbone.model.parameters())


@pytest.mark.parametrize("mode", ["zero", "drop"])
@pytest.mark.parametrize("optimizer", ["adafactor", "adamw"])
def test_pruned_entries_stay_exactly_zero(backbone, splits, mode, optimizer, monkeypatch):
    """Not only at the end: what the backbone is given is looked at in every step and evaluation."""
    prompt = start(backbone)
    pruned = xp.prune(prompt, xp.importance(backbone, prompt, splits.train), 0.4, 0.5, mode=mode)
    kept = pruned.surviving_pieces.repeat_interleave(8, dim=1)
    kept = kept[pruned.surviving_tokens] if mode == "drop" else kept
    seen = []
    run = backbone._context
    watched = lambda rows, *rest: seen.append(rows.detach().clone()) or run(rows, *rest)  # noqa: E731
    monkeypatch.setattr(backbone, "_context", watched)
    xp.tune(backbone, pruned, splits, QUICK.replace(optimizer=optimizer, steps=30, eval_every=30, weight_decay=0.1))
    assert len(seen) > 30
    assert all(rows.shape[1:] == kept.shape and bool((rows[:, ~kept] == 0).all()) for rows in seen)
    assert not torch.equal(seen[-1][:1][:, kept], seen[0][:1][:, kept]), "the survivors must have moved"


def test_the_values_move_and_pruned_ones_receive_nothing(backbone, splits):
    prompt = start(backbone)
    prompt.token_mask[1] = False
    prompt().sum().backward()
    assert torch.equal(prompt.embeddings.grad[1], torch.zeros(32))


def test_side_by_side_equals_apart(kind, splits):
    """Different prompts, modes, learning rates, seeds and data orders, in float64."""
    backbone = tiny_model(kind, torch.float64)
    prompts = [start(backbone, seed) for seed in range(3)]
    prompts[1].token_mask[[0, 2]] = False
    prompts[1].mode = "drop"
    prompts[2].piece_mask[1, :2] = False
    settings = [
        QUICK,
        QUICK.replace(learning_rate=0.2, optimizer="adafactor"),
        QUICK.replace(steps=4, schedule="linear"),
    ]
    side_by_side = xp.tune_many(backbone, prompts, splits, settings, seeds=[0, 1, 0])
    for prompt, one, seed, joint in zip(prompts, settings, [0, 1, 0], side_by_side, strict=True):
        alone = xp.tune(backbone, prompt, splits, one, seed=seed)
        assert alone.history.best_step == joint.history.best_step
        assert torch.allclose(alone.prompt(), joint.prompt(), atol=1e-9)
        for a, b in zip(alone.history.entries, joint.history.entries, strict=True):
            assert a["selection_loss"] == pytest.approx(b["selection_loss"], abs=1e-9)
            assert a["selection_score"] == b["selection_score"]


@pytest.mark.parametrize("width", [None, 3])
def test_with_dropout_too_each_candidate_gets_the_numbers_it_gets_alone(splits, width):
    backbone = tiny_model("seq2seq", dropout=0.3)
    prompts = [start(backbone, seed) for seed in (0, 0, 1)]
    prompts[2].token_mask[0] = False
    settings = [QUICK.replace(dropout=True, accumulation=2, steps=steps) for steps in (6, 4, 6)]
    together = xp.tune_many(backbone, prompts, splits, settings, seeds=[0, 1, 0], width=width)
    for prompt, one, seed, joint in zip(prompts, settings, [0, 1, 0], together, strict=True):
        alone = xp.tune(backbone, prompt, splits, one, seed=seed)
        assert torch.equal(alone.prompt(), joint.prompt())
        losses = [[entry["train_loss"] for entry in result.history.entries] for result in (alone, joint)]
        assert losses[0] == losses[1] and len(set(losses[0])) == len(losses[0])
    without = xp.tune(backbone, prompts[0], splits, QUICK.replace(accumulation=2)).history
    assert without.entries[-1]["train_loss"] != together[0].history.entries[-1]["train_loss"], "dropout is on"


def test_accumulation_is_one_step_of_the_whole_batch(kind, splits):
    backbone = tiny_model(kind, torch.float64)
    whole = xp.tune(backbone, start(backbone), splits, QUICK).history
    parts = xp.tune(backbone, start(backbone), splits, QUICK.replace(accumulation=4)).history
    for a, b in zip(whole.entries, parts.entries, strict=True):
        assert a["selection_loss"] == pytest.approx(b["selection_loss"], abs=1e-10)
        assert a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-10)


def test_a_candidate_that_diverges_ends_alone(backbone, splits, caplog):
    prompts = [start(backbone, seed) for seed in (0, 1, 2)]
    settings = [QUICK, QUICK.replace(optimizer="adafactor", learning_rate=3e38), QUICK]
    results = xp.tune_many(backbone, prompts, splits, settings)
    alone = [xp.tune(backbone, prompts[i], splits, QUICK) for i in (0, 2)]
    for result, expected in zip(results[::2], alone, strict=True):
        assert torch.allclose(result.prompt.embeddings, expected.prompt.embeddings, atol=1e-5)
        assert not result.history.diverged and result.history.last_step == 6
    lost = results[1]
    assert lost.history.best_step == 0 and lost.history.stopped_early and "finite" in lost.history.diverged
    assert torch.equal(lost.prompt.embeddings, prompts[1].embeddings) and "candidate 1 ends" in caplog.text
    with pytest.raises(NotFiniteError, match="learning rate of 3e"):
        xp.tune_many(backbone, prompts[:2], splits, [settings[1]] * 2)


def test_a_prompt_in_half_precision_is_tuned_in_float32(backbone, splits):
    given = start(backbone).to(torch.bfloat16)
    tuned, _ = xp.tune(backbone, given, splits, QUICK)
    assert given.embeddings.dtype == torch.bfloat16 and tuned.embeddings.dtype == torch.float32


@pytest.mark.parametrize("seed", [None, 1.0, "1"])
def test_a_seed_is_a_whole_number(backbone, splits, seed):
    with pytest.raises(xp.ConfigError, match="seed"):
        xp.tune(backbone, start(backbone), splits, QUICK, seed=seed)
    with pytest.raises(xp.ConfigError, match="seed"):
        xp.SoftPrompt.init(backbone, 4, pieces=4, seed=seed)


def test_a_seed_of_numpy_is_the_same_seed(backbone, splits, tmp_path):
    of_numpy = xp.tune(backbone, start(backbone), splits, QUICK, seed=np.int64(3), callbacks=Callbacks(folder=tmp_path))
    plain = xp.tune(backbone, start(backbone), splits, QUICK, seed=3)
    assert torch.equal(of_numpy.prompt.embeddings, plain.prompt.embeddings)


def test_short_last_batches_weigh_by_their_examples(kind):
    """11 examples in batches of 8: the batch of 3 splits into micro-batches of 1 and is still one mean over 3."""
    backbone = tiny_model(kind, torch.float64)
    splits = Splits(get_task("rte"), tiny_data(11, "train"), tiny_data(8, "validation"), "test")
    runs = [xp.tune(backbone, start(backbone), splits, QUICK.replace(accumulation=a)).history for a in (1, 4)]
    assert runs[0].entries[-1]["selection_loss"] == pytest.approx(runs[1].entries[-1]["selection_loss"], abs=1e-10)


def test_early_stopping_keeps_the_best_and_counts_patience(backbone, splits):
    settings = QUICK.replace(learning_rate=1e-12, steps=40, patience=3)
    result = xp.tune(backbone, start(backbone), splits, settings)
    assert result.history.stopped_early and result.history.best_step == 0
    assert [e["step"] for e in result.history.entries] == [0, 2, 4, 6]


def test_the_checkpoint_kept_is_the_one_that_was_best(backbone, splits):
    result = xp.tune(backbone, start(backbone), splits, QUICK.replace(steps=20, learning_rate=0.5))
    again = evaluate_many(backbone, [result.prompt], splits.validation, batch_size=8)[0]
    assert again.score == result.history.best_score
    assert result.history.best_score == max(e["selection_score"] for e in result.history.entries)


def test_selection_uses_the_held_out_split_where_there_is_one(backbone, splits):
    assert xp.tune(backbone, start(backbone), splits, QUICK).history.selection_split == "validation"
    held = splits.hold_out(0.3, seed=0)
    assert xp.tune(backbone, start(backbone), held, QUICK).history.selection_split == "selection"
    assert (splits.selected_on, held.selected_on) == (splits.validation, held.selection)
    nothing = replace(splits, selection=splits.validation.take([]))
    assert nothing.selected_on is nothing.selection, "an empty part is a part"


def test_seeds_and_repeats(backbone, splits):
    runs = [
        xp.tune(backbone, start(backbone), splits, QUICK, seed=s).history.entries[-1]["train_loss"] for s in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_dropout_is_off_unless_asked_for(splits):
    backbone = tiny_model("seq2seq", dropout=0.3)

    def loss(**changes):
        return xp.tune(backbone, start(backbone), splits, QUICK.replace(**changes)).history.entries[-1]["train_loss"]

    assert loss() == loss()
    torch.manual_seed(1)
    with_dropout = loss(dropout=True)
    assert with_dropout != loss()
    assert not backbone.model.training


def test_cut_sources_are_counted(backbone, splits):
    backbone.max_source = 19 if backbone.kind == "decoder" else 16
    history = xp.tune(backbone, start(backbone), splits, QUICK).history
    assert 0 < history.num_cut <= 24


def test_adafactor_is_the_papers(splits):
    optimizer = make_optimizer([torch.nn.Parameter(torch.ones(3, 4))], xp.TuneSettings(steps=1))
    (group,) = optimizer.param_groups
    assert group["lr"] == 0.3 and group["weight_decay"] == 1e-5


def test_linear_schedule_ends_at_zero_and_epochs_become_steps(backbone, splits):
    assert xp.TuneSettings(epochs=3, batch_size=16).num_steps(33) == 9
    assert xp.TuneSettings(epochs=0.5, batch_size=16).num_steps(33) == 2
    history = xp.tune(backbone, start(backbone), splits, QUICK.replace(steps=None, epochs=2, eval_every=None)).history
    assert [e["step"] for e in history.entries] == [0, 3, 6]


def test_settings_that_contradict_are_refused(backbone, splits):
    with pytest.raises(xp.ConfigError, match="exactly one of steps and epochs"):
        xp.TuneSettings(steps=3, epochs=1)
    with pytest.raises(xp.ConfigError, match="multiple of accumulation"):
        xp.TuneSettings(steps=3, batch_size=10, accumulation=4)
    with pytest.raises(xp.ConfigError, match="learning_rat"):
        xp.TuneSettings(steps=3, learning_rat=0.1)
    with pytest.raises(xp.ConfigError, match="must agree"):
        xp.tune_many(backbone, [start(backbone)] * 2, splits, [QUICK, QUICK.replace(batch_size=4)])
    with pytest.raises(xp.ConfigError, match="prompts takes Sequence, and was given SoftPrompt"):
        xp.tune_many(backbone, start(backbone), splits, [QUICK])
    empty = Splits(splits.task, tiny_data(0, "train"), splits.validation, "somewhere")
    with pytest.raises(xp.DataError, match="no training examples"):
        xp.tune(backbone, start(backbone), empty, QUICK)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"width": 0}, r"2 prompts, 2 settings, 2 seeds and width=0 were given: .* a width of at least 1"),
        ({"width": -1}, "width=-1 were given"),
        ({"seeds": [0]}, "2 prompts, 2 settings, 1 seeds"),
        ({"settings": [QUICK]}, "2 prompts, 1 settings"),
        ({"prompts": [], "settings": []}, "0 prompts, 0 settings, 0 seeds .* give one or more prompts"),
    ],
)
def test_what_tune_many_cannot_train_is_refused_at_once(splits, given, words):
    backbone = tiny_model("decoder")
    options = {"prompts": [start(backbone)] * 2, "settings": [QUICK] * 2} | given
    with pytest.raises(xp.ConfigError, match=words):
        xp.tune_many(backbone, options.pop("prompts"), splits, options.pop("settings"), **options)


@pytest.mark.parametrize("kind", ["seq2seq", "decoder"])
def test_in_half_precision_a_prompt_scores_the_same_among_others(kind):
    backbone = wrap(tiny_model(kind).model.bfloat16(), tiny_model(kind).tokenizer)
    data = tiny_data(40, "validation")
    prompts = [xp.SoftPrompt.init(backbone, 4, init="vocab", seed=seed, pieces=4) for seed in range(5)]
    together = evaluate_many(backbone, prompts, data, batch_size=16)
    assert together == [evaluate_many(backbone, [prompt], data, batch_size=16)[0] for prompt in prompts]


def test_a_prompt_with_nothing_left_is_not_tuned(splits):
    backbone = tiny_model("decoder")
    prompt = start(backbone)
    prompt.token_mask.zero_()
    with pytest.raises(xp.ConfigError, match="keep 0 of .* pieces, so that nothing can be tuned"):
        xp.tune(backbone, prompt, splits, QUICK)


def test_a_fine_tuned_backbone_has_a_fingerprint_of_its_own(backbone, splits):
    memorised = Splits(splits.task, splits.train, splits.train, "memorised")
    settings = QUICK.replace(learning_rate=1e-2, steps=20, eval_every=10)
    before = backbone.fingerprint
    tuned, history = xp.fine_tune(backbone, memorised, settings)
    assert history.best_step > 0, "else nothing was trained"
    again = wrap(tuned.model, tuned.tokenizer)
    assert (tuned.fingerprint, tuned.weights_digest) == (again.fingerprint, again.weights_digest)
    assert tuned.fingerprint != before == backbone.fingerprint and tuned.name == f"{backbone.name} (fine-tuned)"
    prompt = xp.tune(tuned, start(tuned), splits, QUICK).prompt
    with pytest.raises(xp.BackboneError, match="tuned on other weights"):
        xp.classifier(prompt, backbone=backbone)
    assert xp.classifier(prompt, backbone=tuned).backbone is tuned


def test_a_fine_tuned_backbone_is_the_best_checkpoint_in_which_a_tied_weight_is_kept_once(splits, monkeypatch):
    backbone, kept, record = tiny_model("seq2seq"), {}, Candidate.record

    def best_at_first(self, step, evaluation, seconds):
        record(self, step, replace(evaluation, score=float(step == 0)), seconds)
        kept.update(self.best)

    monkeypatch.setattr(Candidate, "record", best_at_first)
    tuned, history = xp.fine_tune(backbone, splits, QUICK.replace(learning_rate=1e-2))
    assert history.best_step == 0 and len(history.entries) == 4
    before = backbone.model.state_dict()
    assert all(torch.equal(before[name], value) for name, value in tuned.model.state_dict().items())
    assert sum(value.numel() for value in kept.values()) == sum(p.numel() for p in backbone.model.parameters())
    assert len(kept) < len(before), "a T5's embedding has several names"


def test_an_unknown_objective_is_refused_by_training_and_evaluation_alike(backbone, splits):
    words = "objective 'generaton' was given: choose 'label_scores' or 'generation'. Did you mean 'generation'"
    for call in (
        lambda: xp.evaluate(backbone, start(backbone), splits.validation, objective="generaton"),
        lambda: xp.importance(backbone, start(backbone), splits.train, objective="generaton"),
    ):
        with pytest.raises(xp.ConfigError, match=words):
            call()


def test_long_label_words_are_generated_whole(backbone, splits, monkeypatch):
    """A model that writes the first label's word is right wherever that is the label, however long the word."""
    longer = (" the cat sat on the red mat and then it ran under the blue hill", "True")
    data = replace(splits.validation, task=replace(splits.task, label_words=longer))
    ids = backbone.verbalizer(data.task).sequences[0]
    assert len(ids) > 8

    def generate(vectors, batch, mask, max_new_tokens, index):
        tokens = backbone.tokenizer.convert_ids_to_tokens(ids[:max_new_tokens])
        return ["".join(tokens).replace("▁", " ").strip()] * len(batch)

    monkeypatch.setattr(backbone, "generate", generate)
    found = xp.evaluate(backbone, start(backbone), data, objective="generation")
    assert found["accuracy"] == data.labels.count(0) / len(data) > 0


@pytest.mark.parametrize("objective", ["label_scores", "generation"])
def test_both_objectives_train_and_score(backbone, splits, objective):
    result = xp.tune(backbone, start(backbone), splits, QUICK.replace(objective=objective))
    assert result.history.entries[-1]["train_loss"] > 0
    found = xp.evaluate(backbone, result.prompt, splits.validation, objective=objective)
    assert set(found) == {"accuracy"} and 0 <= found["accuracy"] <= 1


def test_evaluation_order_and_batch_size_change_nothing(backbone64, splits):
    prompt = start(backbone64)
    one, many = (xp.predict(backbone64, prompt, splits.validation, batch_size=b) for b in (1, 16))
    assert one == many
    turned = splits.validation.take(range(len(splits.validation)))
    assert xp.predict(backbone64, prompt, turned[::-1]) == one[::-1]


def test_equal_prompts_are_evaluated_once_and_each_gets_its_result(backbone, splits, monkeypatch):
    one, other = start(backbone), xp.SoftPrompt.init(backbone, 4, seed=9)
    apart = [evaluate_many(backbone, [p], splits.validation)[0] for p in (one, other)]
    rows, own = [], backbone.label_scores

    def counted(vectors, batch, *rest):
        rows.append(len(batch))
        return own(vectors, batch, *rest)

    monkeypatch.setattr(backbone, "label_scores", counted)
    found = evaluate_many(backbone, [one, other, one.clone(), one], splits.validation, batch_size=8)
    assert sum(rows) == 2 * len(splits.validation) and max(rows) == 8
    for evaluation, alone in zip(found, (apart[0], apart[1], apart[0], apart[0]), strict=True):
        assert evaluation.predictions == alone.predictions
        assert evaluation.loss == pytest.approx(alone.loss, abs=1e-6)
