"""A prefix: PEFT's numbers on a decoder-only LM, a hand-joined reference on T5, and what it counts."""

from __future__ import annotations

import peft
import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, DynamicCache, EncoderDecoderCache

import xprompt as xp
from tests.backbones.test_architectures import CONFIGS, make
from tests.conftest import tiny_data, tiny_model, tiny_tokenizer
from xprompt.backbones.loading import wrap
from xprompt.data.batching import batches
from xprompt.data.splits import Splits
from xprompt.methods.base import MethodContext
from xprompt.methods.prefix_tuning import add_prefix, p_tuning_v2, prefix_tuning

QUICK = xp.TuneSettings(learning_rate=0.02, steps=4, batch_size=8, eval_every=2)


def prefixed(backbone, length=3, reparametrised=False):
    torch.manual_seed(1)
    made = add_prefix(backbone, length, reparametrised)
    made.prefix.to(backbone.dtype)
    return made


def one_batch(backbone, size=5):
    (batch,) = batches(backbone.encode(tiny_data(size, "train")), size, seed=None)
    assert not batch.attention_mask.all(), "some rows are padded"
    return batch


@pytest.mark.parametrize("reparametrised", [False, True])
def test_on_a_decoder_it_is_pefts(reparametrised):
    backbone = tiny_model("decoder", torch.float64)
    ours = prefixed(backbone, reparametrised=reparametrised)
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, prefix_projection=reparametrised, encoder_hidden_size=32
    )
    theirs = peft.get_peft_model(backbone.model, config)
    theirs.prompt_encoder["default"].load_state_dict(ours.prefix.stacks["decoder"].encoder.state_dict())
    theirs.prompt_encoder.double()
    verbalizer = ours.verbalizer(tiny_data(1, "train").task)
    batch = one_batch(ours)
    ids = [row[seen.bool()] for row, seen in zip(batch.input_ids, batch.attention_mask, strict=True)]
    expected = torch.stack([theirs(input_ids=row[None]).logits[0, -1, verbalizer.first] for row in ids])  # (B, L)
    found = ours.label_scores(None, batch, verbalizer)
    assert torch.allclose(found, expected, atol=1e-10, rtol=0)
    assert not torch.allclose(found, backbone.label_scores(None, batch, verbalizer), atol=1e-2)
    gradients = torch.autograd.grad(found.square().sum(), list(ours.prefix.parameters()))
    wanted = torch.autograd.grad(expected.square().sum(), list(theirs.prompt_encoder.parameters()))
    for a, b in zip(gradients, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-8, rtol=0) and a.abs().max() > 0
    texts = ours.generate(None, batch, max_new_tokens=4)
    for row, text in zip(ids, texts, strict=True):
        made = theirs.generate(input_ids=row[None], attention_mask=torch.ones_like(row[None]), max_new_tokens=4,
                               do_sample=False, pad_token_id=0)  # fmt: skip
        assert backbone.tokenizer.decode(made[0, len(row) :], skip_special_tokens=True).strip() == text


def test_on_t5_it_is_the_prefix_joined_by_hand():
    """Each layer written out: queries of the input alone, keys and values of both, biases of P + T places."""
    backbone = tiny_model("seq2seq", torch.float64)
    ours, batch = prefixed(backbone), one_batch(backbone)
    values = [part.detach() for part in ours.prefix()]
    length, (rows, width) = 3, batch.input_ids.shape
    encoder, decoder = backbone.model.encoder, backbone.model.decoder

    def attend(attention, queries, keys, extra, bias, mask):
        q, k, v = attention.q(queries), attention.k(keys), attention.v(keys)
        if extra:
            k, v = (torch.cat([e.expand(rows, -1, -1), x], dim=1) for e, x in zip(extra, (k, v), strict=True))
        q, k, v = (x.unflatten(-1, (4, 8)).transpose(1, 2) for x in (q, k, v))
        weights = (q @ k.transpose(-1, -2) + bias + mask).softmax(-1)
        return attention.o((weights @ v).transpose(1, 2).flatten(2))

    hidden = encoder.embed_tokens(batch.input_ids)
    bias = encoder.block[0].layer[0].SelfAttention.compute_bias(length + width, length + width)[:, :, length:]
    seen = torch.cat([torch.ones(rows, length), batch.attention_mask], dim=1)[:, None, None].double()
    mask = torch.where(seen == 0, -torch.inf, 0.0)
    for i, block in enumerate(encoder.block):
        attention, feed_forward = block.layer
        normed = attention.layer_norm(hidden)
        hidden = hidden + attend(attention.SelfAttention, normed, normed, values[2 * i : 2 * i + 2], bias, mask)
        hidden = hidden + feed_forward.DenseReluDense(feed_forward.layer_norm(hidden))
    states = encoder.final_layer_norm(hidden)

    hidden = decoder.embed_tokens(torch.zeros(rows, 1, dtype=torch.long))
    bias = decoder.block[0].layer[0].SelfAttention.compute_bias(length + 1, length + 1)[:, :, length:]
    for i, block in enumerate(decoder.block, start=2):
        attention, cross, feed_forward = block.layer
        normed = attention.layer_norm(hidden)
        hidden = hidden + attend(attention.SelfAttention, normed, normed, values[2 * i : 2 * i + 2], bias, 0.0)
        normed = cross.layer_norm(hidden)
        hidden = hidden + attend(cross.EncDecAttention, normed, states, [], 0.0, mask[..., length:])
        hidden = hidden + feed_forward.DenseReluDense(feed_forward.layer_norm(hidden))
    last = decoder.final_layer_norm(hidden)[:, 0]

    context = ours._context(None, batch)
    valid = batch.attention_mask.bool()
    assert torch.allclose(context[0][valid], states[valid], atol=1e-10)
    assert torch.allclose(ours._first_hidden(context), last, atol=1e-10)
    verbalizer = ours.verbalizer(tiny_data(1, "train").task)
    assert torch.allclose(ours.label_scores(None, batch, verbalizer), ours._head(last, verbalizer.first), atol=1e-10)


def test_the_decoders_half_is_a_cache_of_past_keys_and_values():
    """As PEFT hands them to the decoder of an encoder-decoder; of a label of several tokens, every position agrees."""
    backbone = tiny_model("seq2seq", torch.float64)
    ours, batch = prefixed(backbone), one_batch(backbone)
    context = ours._context(None, batch)
    ids = torch.tensor([[0, 5, 9]]).expand(len(batch), -1)
    values = [part.unflatten(1, (4, 8)).transpose(0, 1).expand(len(batch), -1, -1, -1) for part in ours.prefix()[4:]]
    past = EncoderDecoderCache(DynamicCache([tuple(values[:2]), tuple(values[2:])]), DynamicCache())
    expected = backbone.model.decoder(
        input_ids=ids, encoder_hidden_states=context[0], encoder_attention_mask=context[1], past_key_values=past,
        use_cache=True,
    ).last_hidden_state  # fmt: skip
    assert torch.allclose(ours._decode(context, ids), expected, atol=1e-10)


@pytest.mark.parametrize("objective", ["label_scores", "generation"])
def test_rows_do_not_see_their_padding_and_recomputing_changes_nothing(kind, objective):
    backbone = tiny_model(kind, torch.float64)
    ours, batch = prefixed(backbone), one_batch(backbone)
    verbalizer = ours.verbalizer(tiny_data(1, "train").task)
    together = ours.loss(None, batch, verbalizer, objective=objective)
    alone = [
        ours.loss(None, one, verbalizer, objective=objective)
        for one in batches(ours.encode(tiny_data(5, "train")), 1, seed=None)
    ]
    order = torch.cat([one.index for one in batches(ours.encode(tiny_data(5, "train")), 1, seed=None)])
    assert torch.allclose(together[batch.index.argsort()], torch.cat(alone)[order.argsort()], atol=1e-10)
    results = [
        p_tuning_v2(context_of(backbone, QUICK.replace(gradient_checkpointing=g, objective=objective)))
        for g in (False, True)
    ]
    losses = [[entry["selection_loss"] for entry in result.history] for result in results]
    assert losses[0] == pytest.approx(losses[1], abs=1e-10) and len(set(losses[0])) == 3


def context_of(backbone, tune=QUICK):
    splits = Splits(tiny_data(1, "train").task, tiny_data(16, "train"), tiny_data(8, "validation"), "test")
    config = xp.RunConfig(task="rte", profile="tiny", method="p_tuning_v2", length=3, tune=tune)
    return MethodContext(config, backbone, splits)


@pytest.mark.parametrize(
    ("kind", "method", "trained", "kept"),
    [
        # layers · (keys, values) · P · width; two stacks of a T5, and of a Llama the narrower grouped keys and values
        ("seq2seq", p_tuning_v2, 2 * 2 * 2 * 3 * 32, 2 * 2 * 2 * 3 * 32),
        ("decoder", p_tuning_v2, 2 * 2 * 3 * 16, 2 * 2 * 3 * 16),
        # P · width vectors, width → H → layers · 2 · width with biases
        ("seq2seq", prefix_tuning, 2 * (3 * 32 + 33 * 32 + 33 * 128), 2 * 2 * 2 * 3 * 32),
        ("decoder", prefix_tuning, 3 * 16 + 17 * 32 + 33 * 64, 2 * 2 * 3 * 16),
    ],
)
def test_it_counts_what_is_trained_and_what_is_kept(kind, method, trained, kept):
    result = method(context_of(tiny_model(kind)))
    assert (result.num_params, result.details["prefix_params"]) == (trained, kept)


def test_absolute_positions_too_and_what_it_cannot_do_is_refused():
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=320, d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, pad_token_id=0, bos_token_id=1,
        eos_token_id=1, decoder_start_token_id=1, max_position_embeddings=128,
    )  # fmt: skip
    bart = wrap(BartForConditionalGeneration(config), tiny_tokenizer(True), name="bart", max_source=64)
    ours, batch = prefixed(bart), one_batch(bart)
    verbalizer = ours.verbalizer(tiny_data(1, "train").task)
    loss = ours.loss(None, batch, verbalizer).sum()
    for gradient in torch.autograd.grad(loss, list(ours.prefix.parameters())):
        assert gradient.abs().sum() > 0
    assert len(ours.generate(None, batch, max_new_tokens=2)) == len(batch)
    backbone = tiny_model("decoder")
    backbone._prefix_cache.is_supported = False
    with pytest.raises(xp.BackboneError, match="full attention in every layer"):
        add_prefix(backbone, 3)
    backbone = tiny_model("seq2seq")
    backbone.model.encoder.block[1].layer[0].SelfAttention.k = torch.nn.Linear(32, 16)
    with pytest.raises(xp.BackboneError, match=r"of widths \[32, 16\] in its encoder"):
        add_prefix(backbone, 3)


@pytest.mark.parametrize("name", ["opt", "bart"])
def test_the_prefix_needs_positions_too(name):
    backbone = make(CONFIGS[name](), dtype=torch.float32)
    batch = one_batch(backbone)
    source = batch.input_ids.shape[1]
    ours = add_prefix(backbone, 65 - source)
    verbalizer = ours.verbalizer(tiny_data(1, "train").task)
    for call in (
        lambda: ours.encode(tiny_data(5, "train")),
        lambda: ours.label_scores(None, batch, verbalizer),
        lambda: ours.generate(None, batch),
    ):
        with pytest.raises(xp.BackboneError, match=f"{65 - source} of the prompt, {source} of the longest source"):
            call()
    assert add_prefix(backbone, 64 - source).label_scores(None, batch, verbalizer).isfinite().all()


def test_generation_stops_at_every_end_that_the_model_names(kind):
    backbone = tiny_model(kind)
    ours, batch = prefixed(backbone), one_batch(backbone)
    states, found = [], ours._next_hidden
    ours._next_hidden = lambda *given: states.append(found(*given)) or states[-1]
    ours.generate(None, batch, max_new_tokens=4)
    assert len(states) == 4
    ids = ours._head(states[0], None).argmax(dim=1)  # (B,): what each row begins with
    ours.model.generation_config.eos_token_id = [1, *set(ids.tolist())]
    ours.generate(None, batch, max_new_tokens=4)
    assert len(states) == 5
