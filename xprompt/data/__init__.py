"""From a source to batches: raw examples, splits, token ids, padded tensors.

This room never adds a prompt, never computes a loss, and never chooses at random without a seed.

In reading order:

- `loading`: `load_task`, from a source to splits.
- `readers`: where raw examples come from: the embedded generator, the hub, a folder, a custom task's files.
- `release`: where a folder in the official release layout has a task's examples.
- `hub`: whether anybody answers at the hub, before its clients retry.
- `text_files`: JSON lines, CSV and TSV, read strictly.
- `in_memory`: `task_from`, from a DataFrame, a list of rows or a data set of the hub to splits.
- `splits`: `Splits`, few-shot samples, limits, the held-out part.
- `summary`: splits in a few lines, and what looks wrong with them.
- `tokenization`: from examples to token ids; what is too long is cut.
- `batching`: batches by length, micro-batches, shards.
"""
