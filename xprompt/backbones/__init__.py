"""Frozen language models behind one interface: a soft prompt goes in front, label scores and losses come out.

This room never holds a prompt, never changes a weight, and never runs code that comes with a model.

In reading order:

- `base`: `Backbone`, the only place where prompt and input are joined; label scores, losses, generation.
- `seq2seq`: encoder-decoder models (T5 first).
- `causal`: decoder-only models.
- `zero_states`: where a decoder-only model's gradients end, so that a prompt with pruned first tokens can be tuned.
- `positions`: how many positions a model has.
- `loading`: `load_backbone` by name, `wrap` for a model in memory.
- `pretrained`: the files behind a name → model and tokenizer, and what can go wrong there.
- `model_folder`: what a local folder must hold, checked before it is read.
- `gguf_file`: what a GGUF file must hold, checked before it is read and after.
- `hub`: whether the hub can help with a name at all, asked at once.
- `devices`: device, dtype, free memory, and which attention a GPU computes.
- `main_memory`: what the machine, container or job has left.
- `shapes`: architectures and parameter counts from a configuration alone.
- `fingerprint`: digests of weights, configuration and tokenizer, by which runs recognise a backbone.

What makes it fast, with equal numbers:

- `t5_fast_path`: only what a frozen T5 needs to score a label.
- `t5_encoder_block`: an encoder layer with its backward pass by hand, for short rows on a CPU.
- `prefix_cache`: a prompt shared by many rows is run once.
- `gradient_checkpointing`: recompute activations instead of keeping them.
- `malloc`: keep freed memory between steps on a CPU.
- `subnormals`: take numbers near zero for zero while a CPU computes.
"""
