"""Architectures from the field: the same numbers as plain transformers, or a refusal that says why."""

from __future__ import annotations

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

import xprompt as xp
from tests.conftest import exact_norms, tiny_data, tiny_tokenizer
from xprompt.backbones.gradient_checkpointing import recomputing
from xprompt.backbones.loading import wrap
from xprompt.data.batching import batches, repeat
from xprompt.prompts.stacking import stack

SMALL = {"vocab_size": 320, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
TWO_LAYERS = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
              "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
              "decoder_start_token_id": 1, "dropout": 0.2, "attention_dropout": 0.2}  # fmt: skip
LLAMA = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2}  # fmt: skip
CONFIGS = {
    "bart": lambda: transformers.BartConfig(**SMALL, **TWO_LAYERS, max_position_embeddings=64),
    "pegasus": lambda: transformers.PegasusConfig(**SMALL, **TWO_LAYERS, max_position_embeddings=64),
    "marian": lambda: transformers.MarianConfig(**SMALL, **TWO_LAYERS, max_position_embeddings=64),
    "opt": lambda: transformers.OPTConfig(
        **SMALL, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32,
        max_position_embeddings=64, dropout=0.2, attention_dropout=0.2,
    ),
    "gpt2": lambda: transformers.GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "llama": lambda: transformers.LlamaConfig(**SMALL, **LLAMA),
    "t5": lambda: transformers.T5Config(
        vocab_size=320, d_model=64, d_kv=8, num_heads=4, d_ff=64, num_layers=2, dropout_rate=0.2,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    ),
}  # fmt: skip


def make(config, scale=3.0, tokenizer=None, dtype=torch.float64):
    torch.manual_seed(0)
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    model = kind.from_config(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale if parameter.dim() > 1 else 1.0)
    if dtype == torch.float64:
        exact_norms(model)
    return wrap(model, tokenizer or tiny_tokenizer(config.is_encoder_decoder), max_source=40)


def whole_batch(backbone, size=6):
    data = tiny_data(size, "train")
    (batch,) = batches(backbone.encode(data), size, seed=None)
    return batch, backbone.verbalizer(data.task)


@pytest.mark.parametrize("name", CONFIGS)
def test_recomputed_activations_change_no_loss_and_no_gradient(name):
    backbone = make(CONFIGS[name]())
    batch, verbalizer = whole_batch(backbone)
    prompt = xp.SoftPrompt.init(backbone, 4, pieces=4).embeddings.detach().to(torch.float64)
    results = []
    for active in (False, True, True):
        vectors = prompt.clone().requires_grad_()
        with backbone.dropout(False), recomputing(backbone.model, active):
            losses = backbone.loss(vectors, batch, verbalizer)
            (gradient,) = torch.autograd.grad(losses.sum(), vectors)
        results.append((losses.detach(), gradient))
    for losses, gradient in results[1:]:
        assert torch.allclose(losses, results[0][0], rtol=0, atol=1e-12)
        assert torch.allclose(gradient, results[0][1], rtol=0, atol=1e-12)
    assert not any("forward" in vars(module) for module in backbone.model.modules()), "the model is as it was"


@pytest.mark.parametrize("name", CONFIGS)
def test_prompts_of_different_lengths_in_one_pass_score_as_alone(name):
    """Absolute, rotary and relative positions: what stands before a shorter prompt in a batch moves nothing."""
    backbone = make(CONFIGS[name]())
    batch, verbalizer = whole_batch(backbone)
    prompts = []
    for tokens in ((), (0, 2), (0, 1, 3)):
        prompt = xp.SoftPrompt.init(backbone, 4, pieces=4, seed=len(tokens)).to(torch.float64)
        prompt.mode = "drop"
        prompt.token_mask[list(tokens)] = False
        prompts.append(prompt)
    vectors, mask = stack(prompts)  # (C, P, H), (C, P)
    rows = len(batch)
    index = torch.arange(3).repeat_interleave(rows)
    together = backbone.label_scores(vectors, repeat(batch, 3), verbalizer, mask, index)
    alone = torch.cat([backbone.label_scores(prompt(), batch, verbalizer) for prompt in prompts])
    assert torch.allclose(together, alone, rtol=0, atol=1e-10)


def test_a_model_whose_state_depends_on_padding_is_refused():
    config = transformers.RwkvConfig(vocab_size=320, hidden_size=64, num_hidden_layers=2, context_length=64,
                                     attention_hidden_size=64, bos_token_id=1, eos_token_id=1)  # fmt: skip
    with pytest.raises(xp.BackboneError, match="padded"):
        make(config, scale=1.0, dtype=torch.float32)


@pytest.mark.parametrize(
    ("kind", "setting", "scale"),
    [("Granite", {"logits_scaling": 1.01}, 1 / 1.01), ("Cohere", {"logit_scale": 0.0625}, 0.0625), ("Llama", {}, 1.0)],
)
@pytest.mark.parametrize("size", [0.01, 1.0])
def test_the_heads_scale_is_exact_however_small_the_logits(kind, setting, scale, size):
    config = getattr(transformers, f"{kind}Config")(**SMALL, **LLAMA, **setting)
    backbone = make(config, scale=size)
    assert backbone._head_scale == scale


def test_a_tied_t5_of_small_random_weights_has_its_own_scale():
    backbone = make(CONFIGS["t5"](), scale=0.05, dtype=torch.float32)
    assert backbone._head_scale == 64**-0.5


CAPPED = {
    "gemma2": lambda: transformers.Gemma2Config(**SMALL, **LLAMA, head_dim=8, final_logit_softcapping=30.0),
    "a cap far away": lambda: transformers.Gemma2Config(**SMALL, **LLAMA, head_dim=8, final_logit_softcapping=500.0),
    "another name": lambda: transformers.RecurrentGemmaConfig(
        **SMALL, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, lru_width=32,
        attention_window_size=64, logits_soft_cap=30.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CAPPED)
@pytest.mark.parametrize("size", [0.01, 1.0])
def test_a_soft_cap_on_the_logits_is_refused_whatever_its_name_and_however_small_they_are(name, size):
    with pytest.raises(xp.BackboneError, match="linear map"):
        make(CAPPED[name](), scale=size, dtype=torch.float32)


def test_a_switched_off_soft_cap_is_none():
    config = transformers.Gemma2Config(**SMALL, **LLAMA, head_dim=8, final_logit_softcapping=None)
    assert make(config, dtype=torch.float32)._head_scale == 1.0
    with pytest.raises(xp.BackboneError, match="no number for a padded row in torch.float64: use another dtype"):
        make(config, dtype=torch.float64)


SCALED = {
    "t5": CONFIGS["t5"],
    "untied t5": lambda: transformers.T5Config(
        vocab_size=320, d_model=64, d_kv=8, num_heads=4, d_ff=64, num_layers=2, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=1, tie_word_embeddings=False,
    ),
    "cohere": lambda: transformers.CohereConfig(**SMALL, **LLAMA, logit_scale=0.0625),
    **{f"granite {by}": lambda by=by: transformers.GraniteConfig(**SMALL, **LLAMA, logits_scaling=by)
       for by in (0.9995, 1.0005, 1.01, 8.0)},
    "minicpm3": lambda: transformers.MiniCPM3Config(
        **SMALL, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
        dim_model_base=5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("size", [0.05, 1.0, 3.0])
def test_scores_are_the_models_own_logits_whatever_scales_them(name, size):
    """Against plain transformers, one example at a time, no padding, the prompt joined by hand."""
    backbone = make(SCALED[name](), scale=size, dtype=torch.float32)
    batch, verbalizer = whole_batch(backbone)
    prompt = torch.randn(3, backbone.hidden_size, generator=torch.Generator().manual_seed(0))
    ours = backbone.label_scores(prompt, batch, verbalizer)
    for row in range(len(batch)):
        ids = batch.input_ids[row][batch.attention_mask[row].bool()]
        inputs = {"inputs_embeds": torch.cat([prompt, backbone.model.get_input_embeddings()(ids)])[None]}
        if backbone.kind == "seq2seq":
            inputs["decoder_input_ids"] = torch.zeros(1, 1, dtype=torch.long)
        logits = backbone.model(**inputs).logits[0, -1, verbalizer.first]
        assert torch.allclose(ours[row], logits, rtol=2e-5, atol=1e-5 * float(logits.abs().max()))


def test_generation_is_greedy_whatever_the_models_folder_says(tmp_path):
    config = CONFIGS["t5"]()
    plain = make(config, dtype=torch.float32)
    batch, _ = whole_batch(plain)
    model = plain.model
    model.generation_config = transformers.GenerationConfig(
        num_beams=4, repetition_penalty=3.0, decoder_start_token_id=0, eos_token_id=1, pad_token_id=0
    )
    leaking = wrap(model, plain.tokenizer, max_source=40)
    ids = batch.input_ids
    greedy = model.generate(
        input_ids=ids, attention_mask=batch.attention_mask, max_new_tokens=8, do_sample=False, num_beams=1
    )
    expected = [text.strip() for text in plain.tokenizer.batch_decode(greedy, skip_special_tokens=True)]
    assert leaking.generate(None, batch) == expected
    assert leaking.model.generation_config.num_beams in (None, 1)


def test_label_words_are_the_tokens_that_follow_the_input():
    """A tokenizer that marks the first word, as Llama 2's, adds no mark in the middle of a text."""
    words = ["True", "False", "Answer", ":", "\n", "cat"]
    pieces = ["<pad>", "</s>", "<unk>", "▁", "\n", ":", *(f"▁{w}" for w in words), *words, "A", "n", "s", "w", "e", "r"]
    tokenizer = Tokenizer(
        models.Unigram([(piece, -1.0 - len(piece) ** -1) for piece in dict.fromkeys(pieces)], unk_id=2)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    backbone = make(transformers.LlamaConfig(**SMALL, **LLAMA), tokenizer=fast)
    for word in ("True", "False"):
        whole = fast(f"cat\nAnswer: {word}", add_special_tokens=False).input_ids
        ids = backbone._label_ids(word)
        assert whole[-len(ids) :] == ids and fast.convert_ids_to_tokens(ids) == [f"▁{word}"]
