"""What a task is, and the tasks there are: templates, verbalizers, metrics, how a raw object becomes an example.

This room never opens a file of examples, never tokenises, and never sees a model.

In reading order:

- `task`: `Task`, the declaration of a task; rendering, labels, cutting.
- `superglue`: the paper's seven tasks, one declaration each.
- `custom`: `CustomTask`, a user's `task.json` beside a table of examples.
- `registry`: `get_task`, by name or by the path of a declaration.
- `example`: `Example`, and the raw object it is read from.
- `metrics`: accuracy, macro F1, F1a, exact match.
"""
