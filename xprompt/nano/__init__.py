"""The embedded default: seven generated English tasks, a small T5 that can learn them, and how both are made.

This room never reads a file of examples; only `pretrain` imports torch. Train and validation share no passage, and
none of theirs is a whole input of the pretraining corpus; short ones, as a sentence of COPA or WiC, occur in longer
texts and as answers there, without the task's question.

In reading order:

- `generator`: `raw_examples`, the examples of each task.
- `world`: names, places and things, and the rules that keep corpus, train and validation apart.
- `facts`: facts about people, sentences that state them, and claims that follow or do not.
- `claims`: examples like those of BoolQ, CB, RTE and MultiRC.
- `causes`: examples like COPA's.
- `senses`: examples like WiC's.
- `pronouns`: examples like WSC's.
- `untaught`: which examples need what pretraining does not teach.
- `corpus`: the text that the T5 is pretrained on.
- `tokenizer`: its vocabulary.
- `sizes`: the widths that it comes in.
- `checksums`: the SHA-256 of a checkpoint's files, written by pretraining and verified at every load.
- `pretrain`: pretraining, which writes `checkpoint/`.
"""
