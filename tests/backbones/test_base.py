"""One input builder, padding that changes nothing, and scores that are the model's own."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

import xprompt as xp
from tests.conftest import exact_norms, tiny_data, tiny_model, tiny_tokenizer
from xprompt.backbones import t5_fast_path
from xprompt.backbones.base import Verbalizer, exact_labels
from xprompt.backbones.devices import avoid_cudnn_attention
from xprompt.backbones.fingerprint import fingerprint
from xprompt.backbones.gradient_checkpointing import recomputing
from xprompt.backbones.loading import wrap
from xprompt.backbones.prefix_cache import PrefixCache
from xprompt.backbones.subnormals import are_zero, subnormals_as_zero
from xprompt.backbones.t5_encoder_block import FrozenEncoderBlock, can_run
from xprompt.backbones.t5_fast_path import FrozenT5
from xprompt.data.batching import Batch, batches
from xprompt.tasks.registry import get_task


def one_batch(backbone, data) -> Batch:
    (batch,) = batches(backbone.encode(data), len(data), seed=None)
    return batch


def a_prompt(backbone, length=5):
    return xp.SoftPrompt.init(backbone, length, pieces=4, seed=1).to(backbone.dtype)


def test_scores_equal_the_models_own_logits(backbone64):
    data = tiny_data(1, "train")
    batch, verbalizer = one_batch(backbone64, data), backbone64.verbalizer(data.task)
    embeddings = backbone64.model.get_input_embeddings()(batch.input_ids)
    prompt = a_prompt(backbone64)
    joined = torch.cat([prompt()[None], embeddings], dim=1)
    if backbone64.kind == "seq2seq":
        logits = backbone64.model(inputs_embeds=joined, decoder_input_ids=torch.zeros(1, 1, dtype=torch.long)).logits
    else:
        logits = backbone64.model(inputs_embeds=joined).logits
    expected = logits[0, -1, list(verbalizer.first)]
    assert torch.allclose(backbone64.label_scores(prompt(), batch, verbalizer)[0], expected, atol=1e-12)


def test_padding_and_batch_order_change_no_score(backbone64):
    data, prompt = tiny_data(12, "train"), a_prompt(backbone64)
    verbalizer = backbone64.verbalizer(data.task)
    whole = one_batch(backbone64, data)
    together = backbone64.label_scores(prompt(), whole, verbalizer)
    assert whole.attention_mask.min() == 0, "the batch must need padding"
    for row, i in enumerate(whole.index.tolist()):
        alone = backbone64.label_scores(prompt(), one_batch(backbone64, data[i : i + 1]), verbalizer)
        assert torch.allclose(alone[0], together[row], atol=1e-10)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokenizers_padding_side_does_not_matter(kind, side):
    data = tiny_data(6, "train")
    backbone = tiny_model(kind)
    backbone.tokenizer.padding_side = side
    reference = tiny_model(kind)
    assert xp.predict(backbone, None, data) == xp.predict(reference, None, data)
    a, b = (b_.label_scores(None, one_batch(b_, data), b_.verbalizer(data.task)) for b_ in (backbone, reference))
    assert torch.equal(a, b)


def test_dropping_equals_the_physically_shorter_prompt(backbone64):
    data, prompt = tiny_data(7, "train"), a_prompt(backbone64)
    prompt.mode = "drop"
    prompt.token_mask[[1, 3]] = False
    short = xp.SoftPrompt(prompt.embeddings[[0, 2, 4]], pieces=4)
    batch, verbalizer = one_batch(backbone64, data), backbone64.verbalizer(data.task)
    expected = backbone64.label_scores(short(), batch, verbalizer)
    assert torch.equal(backbone64.label_scores(prompt(), batch, verbalizer), expected)
    # And where a longer candidate shares the batch, so that the short one is filled up and masked:
    rows = torch.cat([torch.full((2, 32), 9.0, dtype=torch.float64), short()]).expand(len(data), -1, -1)
    prompt_mask = torch.tensor([0, 0, 1, 1, 1]).expand(len(data), -1)
    assert torch.allclose(backbone64.label_scores(rows, batch, verbalizer, prompt_mask), expected, atol=1e-10)


def test_zero_and_drop_are_different_models(backbone64):
    data, prompt = tiny_data(7, "train"), a_prompt(backbone64)
    prompt.token_mask[[1, 3]] = False
    batch, verbalizer = one_batch(backbone64, data), backbone64.verbalizer(data.task)
    zero = backbone64.label_scores(prompt(), batch, verbalizer)
    prompt.mode = "drop"
    assert not torch.allclose(zero, backbone64.label_scores(prompt(), batch, verbalizer), atol=1e-3)


def test_labels_that_share_a_first_piece_are_scored_as_strings(backbone64):
    data = tiny_data(5, "train")
    batch = one_batch(backbone64, data)
    shared = backbone64.tokenizer
    task = replace(data.task, label_words=("mat red", "mat blue"))
    verbalizer = backbone64.verbalizer(task)
    assert verbalizer.first is None
    scores = backbone64.label_scores(a_prompt(backbone64)(), batch, verbalizer)
    for label, ids in enumerate(verbalizer.sequences):  # by hand: one token after another
        total = torch.zeros(len(batch.labels), dtype=torch.float64)
        target = [*ids, shared.eos_token_id]
        embeddings, mask = backbone64.join(a_prompt(backbone64)(), batch)
        for row in range(len(batch.labels)):
            kept = mask[row].bool()
            for step, token in enumerate(target):
                if backbone64.kind == "seq2seq":
                    logits = backbone64.model(
                        inputs_embeds=embeddings[row][kept][None],
                        decoder_input_ids=torch.tensor([[0, *target[:step]]]),
                    ).logits
                else:
                    said = backbone64.model.get_input_embeddings()(torch.tensor(target[:step], dtype=torch.long))
                    logits = backbone64.model(inputs_embeds=torch.cat([embeddings[row][kept], said])[None]).logits
                total[row] += logits[0, -1].log_softmax(-1)[token].detach()
        assert torch.allclose(scores[:, label], total, atol=1e-9)


def test_the_generation_loss_is_the_label_strings_likelihood(backbone64):
    data = tiny_data(5, "train")
    batch, verbalizer = one_batch(backbone64, data), backbone64.verbalizer(data.task)
    loss = backbone64.loss(None, batch, verbalizer, objective="generation")
    scores = backbone64.label_scores(None, batch, Verbalizer(verbalizer.sequences, None))
    assert torch.allclose(loss, -scores.gather(1, batch.labels[:, None])[:, 0], atol=1e-10)


def test_an_objective_that_is_none_has_no_loss(backbone):
    data = tiny_data(2, "train")
    batch, verbalizer = one_batch(backbone, data), backbone.verbalizer(data.task)
    with pytest.raises(xp.ConfigError, match="objective 'labels' was given: choose 'label_scores' or 'generation'"):
        backbone.loss(None, batch, verbalizer, objective="labels")


@pytest.mark.parametrize(("lengths", "tokens"), [((1, 1), 8), ((7, 2), 8), ((8, 2), 9), ((1, 30), 31)])
def test_a_generated_label_may_be_as_long_as_the_longest_word_and_its_end(lengths, tokens):
    assert Verbalizer(tuple((5,) * n for n in lengths), None).max_new_tokens == tokens


def test_generation_sees_the_same_input_and_padding_changes_none_of_it(backbone):
    data, prompt = tiny_data(6, "train"), a_prompt(backbone)
    batch = one_batch(backbone, data)
    together = backbone.generate(prompt(), batch, max_new_tokens=4)
    for row, i in enumerate(batch.index.tolist()):
        assert backbone.generate(prompt(), one_batch(backbone, data[i : i + 1]), max_new_tokens=4) == [together[row]]


def test_generated_text_must_match_a_label_word():
    assert exact_labels(["True", "False", "tru", ""], get_task("boolq")) == [1, 0, -1, -1]
    padded = replace(get_task("boolq"), label_words=(" False", "True "))  # generated text has no outer white space
    assert exact_labels(["True", "False"], padded) == [1, 0]


def test_a_backbone_is_frozen_and_evaluates_without_dropout():
    backbone = tiny_model("seq2seq", dropout=0.5)
    assert not any(p.requires_grad for p in backbone.model.parameters())
    data = tiny_data(8, "train")
    batch, verbalizer = one_batch(backbone, data), backbone.verbalizer(data.task)
    score = lambda: backbone.label_scores(None, batch, verbalizer)  # noqa: E731
    assert torch.equal(score(), score())
    with backbone.dropout(True):
        assert not torch.equal(score(), score())
    assert torch.equal(score(), score())


def test_a_prompt_for_another_width_is_refused(backbone):
    with pytest.raises(xp.BackboneError, match="16 wide.*needs 32"):
        backbone.join(torch.zeros(3, 16), one_batch(backbone, tiny_data(2, "train")))
    with pytest.raises(xp.BackboneError, match="16 wide.*needs 32"):  # a decoder-only LM runs this one once
        xp.evaluate(backbone, xp.SoftPrompt(torch.ones(3, 16), pieces=4), tiny_data(2, "train"))


def test_a_prompt_with_no_token_left_is_none(backbone):
    batch, verbalizer = one_batch(backbone, tiny_data(4, "train")), backbone.verbalizer(get_task("rte"))
    for objective in ("label_scores", "generation"):
        losses = [backbone.loss(p, batch, verbalizer, objective=objective) for p in (torch.zeros(0, 32), None)]
        assert torch.allclose(*losses, atol=1e-6)


def test_label_words_that_look_alike_are_refused(backbone):
    with pytest.raises(xp.BackboneError, match="cannot distinguish"):
        backbone.verbalizer(replace(get_task("rte"), label_words=("mat", "mat")))


def test_a_label_word_that_becomes_an_unknown_token_is_refused(backbone):
    with pytest.raises(xp.BackboneError, match=r"has no tokens for '雨', a label word of rte: it becomes <unk>"):
        backbone.verbalizer(replace(get_task("rte"), label_words=("mat", "雨")))


def test_untied_heads_are_not_scaled(tmp_path):
    """T5 v1.1 has its own head and no scaling; tied T5 scales by H^-1/2: measured at load, not assumed."""
    tied = tiny_model("seq2seq")
    assert tied._head_scale == pytest.approx(32**-0.5)
    assert tiny_model("decoder")._head_scale == 1.0


def test_saved_and_loaded_by_folder(tmp_path, kind):
    backbone = tiny_model(kind)
    backbone.model.save_pretrained(tmp_path)
    tiny_tokenizer(kind == "seq2seq").save_pretrained(tmp_path)
    again = xp.load_backbone(str(tmp_path), device="cpu")
    assert again.kind == kind and again.fingerprint == backbone.fingerprint
    assert xp.predict(again, None, tiny_data(8, "train")) == xp.predict(backbone, None, tiny_data(8, "train"))


def test_errors_of_a_first_time_user(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(xp.BackboneError, match="could not be loaded"):
        xp.load_backbone("nobody/no-such-model")
    with pytest.raises(xp.BackboneError, match=r"config\.json"):
        xp.load_backbone(str(tmp_path))
    backbone = tiny_model("seq2seq")
    backbone.model.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(xp.BackboneError, match="bfloat16"):
        xp.load_backbone(str(tmp_path), dtype="float16")
    with pytest.raises(xp.BackboneError, match="unknown dtype"):
        xp.load_backbone(str(tmp_path), dtype="int4")
    (tmp_path / "model.safetensors").unlink()
    torch.save(backbone.model.state_dict(), tmp_path / "pytorch_model.bin")
    assert xp.load_backbone(str(tmp_path), device="cpu").fingerprint == backbone.fingerprint  # tensors, nothing else
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(xp.BackboneError, match="safetensors"):
        xp.load_backbone(str(tmp_path))


def test_wrap_refuses_a_head_it_cannot_cut():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    model = Gemma2ForCausalLM(
        Gemma2Config(vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                     num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5)
    )  # fmt: skip
    with pytest.raises(xp.BackboneError, match="more than one linear map"):
        wrap(model, tiny_tokenizer(False))


@pytest.mark.parametrize("longest", [0, 96], ids=["fused", "products"])
@pytest.mark.parametrize("shape", ["first", "gated"])
def test_the_fast_path_through_t5_equals_transformers_own(shape, longest, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(t5_fast_path, "PLAIN_ATTENTION", longest)
    gated = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": 3}
    config = T5Config(vocab_size=320, d_model=32, d_kv=8, num_heads=4, d_ff=64, num_layers=2, dropout_rate=0.1,
                      decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
                      **(gated if shape == "gated" else {}))  # fmt: skip
    model = T5ForConditionalGeneration(config).double()
    exact_norms(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    backbone = wrap(model, tiny_tokenizer(True), max_source=64)
    data = tiny_data(6, "train")
    batch, verbalizer = one_batch(backbone, data), backbone.verbalizer(data.task)
    found = {}
    for short in (True, False):
        monkeypatch.setattr(FrozenT5, "applies", property(lambda self, short=short: short))
        prompt = a_prompt(backbone)
        rows = prompt().expand(6, -1, -1)
        prompt_mask = torch.ones(6, 5, dtype=torch.bool)
        prompt_mask[::2, :2] = False
        scores = backbone.label_scores(rows, batch, verbalizer, prompt_mask)
        (gradient,) = torch.autograd.grad(scores[:, 0].sum(), [prompt.embeddings])
        found[short] = (scores, gradient)
    assert found[True][0].std() > 1e-3 and found[True][1].abs().max() > 1e-6
    for one, other in zip(found[True], found[False], strict=True):
        assert torch.allclose(one, other, atol=1e-10, rtol=1e-8)


def test_in_bfloat16_on_a_cpu_a_decoder_attends_by_plain_products_and_is_the_same_backbone(tmp_path):
    backbone = tiny_model("decoder", torch.bfloat16)
    backbone.model.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    narrow, wide = (xp.load_backbone(tmp_path, device="cpu", dtype=dtype) for dtype in ("bfloat16", "float32"))
    assert narrow.model.config._attn_implementation == "eager" and wide.model.config._attn_implementation == "sdpa"
    data = tiny_data(6, "train")
    batch, verbalizer, rows = one_batch(narrow, data), narrow.verbalizer(data.task), a_prompt(narrow)()
    plain = narrow.label_scores(rows, batch, verbalizer)
    narrow.model.set_attn_implementation("sdpa")
    fused = narrow.label_scores(rows, batch, verbalizer)
    assert fused.std() > 0 and torch.allclose(plain, fused, atol=0.05 * float(fused.std()))
    assert fingerprint(narrow.weights_digest, narrow.model, narrow.tokenizer) == narrow.fingerprint


@pytest.mark.parametrize("rows_of_bias", [1, 2])
def test_an_encoder_layer_by_hand_is_transformers_own_and_its_gradient_that_of_finite_differences(rows_of_bias):
    torch.manual_seed(0)
    config = T5Config(vocab_size=32, d_model=6, d_kv=2, num_heads=3, d_ff=8, num_layers=1, dropout_rate=0.0)
    model = T5ForConditionalGeneration(config).double().requires_grad_(False).eval()
    for parameter in model.encoder.block[0].parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.3)
    exact = copy.deepcopy(model)  # transformers' norms compute in float32
    exact_norms(exact)
    (ours,), (theirs,) = model.encoder.block, exact.encoder.block
    assert can_run(ours)
    hidden = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(rows_of_bias, 3, 4, 4, dtype=torch.float64)
    expected = theirs(hidden, position_bias=bias)[0]
    assert torch.allclose(FrozenEncoderBlock.apply(hidden, bias, ours), expected, atol=1e-12, rtol=1e-12)
    assert torch.autograd.gradcheck(lambda x: FrozenEncoderBlock.apply(x, bias, ours), (hidden,))


@pytest.mark.parametrize("place", ["hook", "module"])
def test_an_encoder_layer_with_a_hook_or_another_map_is_not_run_by_hand(place):
    model = tiny_model("seq2seq").model
    block = model.encoder.block[0]
    assert can_run(block)
    attention = block.layer[0].SelfAttention
    if place == "hook":
        attention.k.register_forward_hook(lambda module, inputs, output: 2 * output)
    else:
        attention.v = torch.nn.Sequential(attention.v)
    assert not can_run(block) and can_run(model.encoder.block[1])


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
def test_what_the_fast_path_overwrites_changes_no_bit(feed_forward, monkeypatch):
    monkeypatch.setattr(t5_fast_path, "can_run", lambda block: False)  # by hand it is equal up to rounding
    torch.manual_seed(0)
    config = T5Config(vocab_size=320, d_model=32, d_kv=8, num_heads=4, d_ff=64, num_layers=3, pad_token_id=0,
                      feed_forward_proj=feed_forward, decoder_start_token_id=0, eos_token_id=1)  # fmt: skip
    backbone = wrap(T5ForConditionalGeneration(config), tiny_tokenizer(True), max_source=64)
    data = tiny_data(6, "train")
    batch, verbalizer = one_batch(backbone, data), backbone.verbalizer(data.task)

    def plain_block(block, hidden, bias):
        attention, feed_forward = block.layer
        layer, normed = attention.SelfAttention, attention.layer_norm(hidden)
        query, key, value = (
            linear(normed).unflatten(-1, (4, 8)).transpose(1, 2) for linear in (layer.q, layer.k, layer.v)
        )
        attended = (query @ key.transpose(-1, -2) + bias).softmax(dim=-1) @ value
        hidden = hidden + layer.o(attended.transpose(1, 2).flatten(2))
        return hidden + feed_forward.DenseReluDense(feed_forward.layer_norm(hidden))

    def scores_and_gradient():
        prompt = a_prompt(backbone)
        scores = backbone.label_scores(prompt().expand(6, -1, -1), batch, verbalizer)
        return scores.detach(), *torch.autograd.grad(scores[:, 0].sum(), [prompt.embeddings])

    ours = scores_and_gradient()
    monkeypatch.setattr(t5_fast_path, "_encode_block", plain_block)
    monkeypatch.setattr(t5_fast_path, "_normalize", lambda layer, hidden: layer(hidden))
    plain = scores_and_gradient()
    assert plain[1].abs().max() > 1e-6
    assert all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))


@pytest.mark.parametrize("threads, gradient, plain", [(1, False, False), (1, True, True), (2, False, True)])
def test_plain_products_attend_where_they_are_faster(threads, gradient, plain, monkeypatch):
    backbone, fused = tiny_model("seq2seq"), []
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        t5_fast_path.F, "scaled_dot_product_attention", lambda *a, **k: fused.append(1) or real(*a, **k)
    )
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    batch = one_batch(backbone, tiny_data(3, "train"))
    with torch.set_grad_enabled(gradient):
        for longest, expected in ((96, plain), (4, False)):
            monkeypatch.setattr(t5_fast_path, "PLAIN_ATTENTION", longest)
            fused.clear()
            backbone.label_scores(None, batch, backbone.verbalizer(xp.TASKS["rte"]))
            assert len(fused) == (0 if expected else 2)


def test_where_weights_learn_or_dropout_is_on_transformers_own_forward_is_used():
    backbone = tiny_model("seq2seq", dropout=0.1)
    assert backbone._fast_path.applies
    with backbone.dropout(True):
        assert not backbone._fast_path.applies
    backbone.model.requires_grad_(True)
    assert not backbone._fast_path.applies


@pytest.mark.parametrize("label_words", [("entailment", "not_entailment"), ("mat red", "mat blue")])
def test_a_prompt_run_once_for_all_rows_equals_one_run_in_every_row(label_words):
    """Values and gradients, for three prompts of two lengths, padded rows, first pieces and whole label strings."""
    backbone, data = tiny_model("decoder", torch.float64), tiny_data(7, "train")
    batch, verbalizer = one_batch(backbone, data), backbone.verbalizer(replace(data.task, label_words=label_words))
    assert batch.attention_mask.min() == 0 and (verbalizer.first is None) == (label_words[0] == "mat red")
    prompts = torch.randn(3, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    prompt_mask = torch.ones(3, 5, dtype=torch.bool)
    prompt_mask[1, :2] = False  # the second one is shorter: it is filled up in front
    prompt_index = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    found = []
    for shared in (True, False):
        backbone._prefix_cache.is_supported = shared
        scores = backbone.label_scores(prompts, batch, verbalizer, prompt_mask, prompt_index)
        (gradient,) = torch.autograd.grad((scores * torch.tensor([1.0, -2.0])).sum(), prompts)
        found.append((scores, gradient))
    assert found[0][0].std() > 1e-2 and found[0][1][:, 2:].abs().amin(dim=(1, 2)).min() > 0
    assert not found[0][1][1, :2].any(), "what only fills up got a gradient"
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-11, rtol=1e-9)


def test_a_prompt_is_run_once_only_where_its_rows_are_alike(monkeypatch):
    backbone, data = tiny_model("decoder", dropout=0.1), tiny_data(3, "train")
    batch, verbalizer = one_batch(backbone, data), backbone.verbalizer(data.task)
    seen = []
    monkeypatch.setattr(backbone, "_run_prompt_once", lambda *given: seen.append(given))
    prompt = a_prompt(backbone)().detach()
    assert backbone._context(prompt, batch) is None and len(seen) == 1
    backbone.label_scores(prompt.expand(3, -1, -1), batch, verbalizer)  # each row its own, as importance needs it
    backbone.label_scores(None, batch, verbalizer)
    with backbone.dropout(True):
        backbone.label_scores(prompt, batch, verbalizer)
    with recomputing(backbone.model, True):
        backbone.label_scores(prompt, batch, verbalizer)
    monkeypatch.setattr(type(backbone._prefix_cache.model), "device", torch.device("cuda"))
    assert not backbone._prefix_cache.applies  # on a GPU two passes take longer than one
    assert len(seen) == 1


def test_on_a_gpu_no_attention_is_computed_by_cudnn(monkeypatch):
    """Whose gradients are NaN at some lengths; a CPU's process is left alone."""
    monkeypatch.setattr("torch.backends.cuda.enable_cudnn_sdp", (set_to := []).append)
    avoid_cudnn_attention(torch.device("cpu"))
    assert not set_to
    avoid_cudnn_attention(torch.device("cuda"))
    assert set_to == [False]
    monkeypatch.setattr("xprompt.backbones.loading.avoid_cudnn_attention", (seen := []).append)
    assert seen == [tiny_model("decoder").device]


def test_a_model_that_does_not_look_back_over_everything_is_run_whole():
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                           num_attention_heads=4, num_key_value_heads=2, sliding_window=8, head_dim=8)  # fmt: skip
    assert not PrefixCache(MistralForCausalLM(config).eval()).is_supported
    config.sliding_window = None
    assert PrefixCache(MistralForCausalLM(config).eval()).is_supported


def random_model(name: str, **changes):
    """A small random model of any architecture with label words in its tokenizer, as `from_config` makes it."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = AutoConfig.for_model(name, vocab_size=320, pad_token_id=0, eos_token_id=1, bos_token_id=1, **changes)
    torch.manual_seed(0)
    return (AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM).from_config(config)


BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 128,
        "decoder_start_token_id": 1}  # fmt: skip
OPT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "word_embed_proj_dim": 32}
LLAMA = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 4}  # fmt: skip
T5 = {"d_model": 64, "d_kv": 16, "num_heads": 4, "d_ff": 64, "num_layers": 2, "decoder_start_token_id": 0}


@pytest.mark.parametrize(("name", "shape"), [("bart", BART), ("pegasus", BART), ("mbart", BART), ("opt", OPT)])
def test_recomputing_turns_no_dropout_on_whatever_the_architecture(name, shape):
    closes = name != "opt"
    backbone = wrap(random_model(name, **shape), tiny_tokenizer(closes), max_source=64)
    batch, verbalizer = one_batch(backbone, tiny_data(6, "train")), backbone.verbalizer(get_task("rte"))
    losses, gradients = [], []
    for active in (False, True, True):
        prompt = a_prompt(backbone)
        with recomputing(backbone.model, active):
            loss = backbone.loss(prompt(), batch, verbalizer).sum()
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, prompt.embeddings)[0])
    assert gradients[0].abs().max() > 0
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        assert torch.allclose(loss, losses[0], rtol=1e-5) and torch.allclose(
            gradient, gradients[0], rtol=1e-3, atol=1e-7
        )
    assert not any("forward" in vars(module) for module in backbone.model.modules())


@pytest.mark.parametrize(
    ("name", "shape", "scale"),
    [
        ("t5", T5, 64**-0.5),
        ("t5", T5 | {"initializer_factor": 0.01}, 64**-0.5),
        ("llama", LLAMA, 1.0),
        ("cohere", LLAMA | {"logit_scale": 0.0625}, 0.0625),
        ("granite", LLAMA | {"logits_scaling": 1.01}, 1 / 1.01),
    ],
)
def test_the_heads_scale_is_measured_however_small_the_logits(name, shape, scale):
    backbone = wrap(random_model(name, **shape), tiny_tokenizer(name == "t5"), max_source=64)
    assert backbone._head_scale == pytest.approx(scale, rel=1e-6)


def test_capped_logits_are_refused_even_where_small_ones_do_not_show_it():
    shape = LLAMA | {"head_dim": 16, "final_logit_softcapping": 30.0}
    with pytest.raises(xp.BackboneError, match="more than one linear map"):
        wrap(random_model("gemma2", **shape), tiny_tokenizer(False))


def test_weights_that_are_not_finite_are_named(kind):
    backbone = tiny_model(kind)
    with torch.no_grad():
        next(backbone.model.parameters()).fill_(float("nan"))
    with pytest.raises(xp.BackboneError, match="weights that are not finite in torch.float32, first in "):
        wrap(backbone.model, backbone.tokenizer)


def test_generation_is_greedy_whatever_the_model_folder_asks_for(backbone):
    batch, model = one_batch(backbone, tiny_data(4, "train")), backbone.model
    texts = backbone.generate(None, batch)
    model.generation_config.update(num_beams=4, repetition_penalty=3.0, min_new_tokens=6, do_sample=True)
    assert wrap(model, backbone.tokenizer, max_source=64).generate(None, batch) == texts


@pytest.mark.parametrize("start", [None, 5])
def test_generation_starts_from_the_token_that_scoring_starts_from(start):
    """A folder's generation settings may name another token, or none, which transformers refuses or takes from bos."""
    backbone = tiny_model("seq2seq")
    batch, model = one_batch(backbone, tiny_data(4, "train")), backbone.model
    texts, name = backbone.generate(None, batch), backbone.fingerprint
    model.generation_config.decoder_start_token_id = start
    again = wrap(model, backbone.tokenizer, max_source=64)
    assert again.generate(None, batch) == texts and again.fingerprint == name


def test_a_gpu_without_cuda_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(xp.BackboneError, match=r"device 'cuda' was given, and torch .* sees no GPU"):
        xp.load_backbone("nano", device="cuda")


def test_a_folder_that_is_not_there_or_not_whole_is_named(tmp_path):
    with pytest.raises(xp.BackboneError, match="no/such/folder' could not be loaded: there is no such folder"):
        xp.load_backbone("/no/such/folder")
    backbone = tiny_model("decoder")
    backbone.model.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    assert xp.load_backbone(tmp_path).name == str(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(xp.BackboneError, match=r"model\.safetensors is cut short or damaged"):
        xp.load_backbone(tmp_path)
    weights.write_bytes(whole)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 320', '"vocab_size": 500'))
    with pytest.raises(xp.BackboneError, match=r"do not fit its config\.json.*\[320, 32\] where \[500, 32\] is needed"):
        xp.load_backbone(tmp_path)


def test_more_tokens_than_positions_are_refused_before_any_forward():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=320, n_positions=24, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=1)
    backbone = wrap(GPT2LMHeadModel(config), tiny_model("decoder").tokenizer, name="gpt", max_source=64)
    data = tiny_data(6, "train")
    with pytest.raises(xp.BackboneError, match=r"gpt has 24 positions, .*max_source="):
        xp.evaluate(backbone, xp.SoftPrompt.init(backbone, 20, pieces=2), data)


def test_a_text_with_a_token_beyond_the_embedding_table_is_named():
    whole = tiny_model("seq2seq")
    data = tiny_data(6, "train")
    largest = max(max(ids) for ids in whole.encode(data).ids)
    whole.model.resize_token_embeddings(largest)
    with pytest.raises(xp.XPromptError, match=rf"below {largest}|{largest} embeddings|{largest} rows"):
        whole.encode(data)


def test_subnormal_values_are_zero_inside_the_block_alone():
    tiny, cpu = torch.full((4,), 1e-37), torch.device("cpu")
    with subnormals_as_zero(cpu):
        assert (tiny / 100).eq(0).all() and (tiny * 100).gt(0).all() and are_zero()
        with subnormals_as_zero(cpu):
            pass
        assert are_zero()
    assert (tiny / 100).gt(0).all() and not are_zero()
    with pytest.raises(KeyError), subnormals_as_zero(cpu):
        raise KeyError
    assert not are_zero()
    with subnormals_as_zero(torch.device("meta")):
        assert not are_zero()


def test_a_copy_that_is_wrapped_again_has_each_hook_once():
    copied = copy.deepcopy(tiny_model("decoder").model)
    wrap(copied, tiny_model("decoder").tokenizer)
    assert {len(block._forward_hooks) for block in copied.modules() if block._forward_hooks} == {1}
