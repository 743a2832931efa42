"""What the method costs: speed and memory, ours against a baseline, measured in turns in one process.

A measurement never decides a result, and a row that was not measured is never filled.

Reading order: sizes.py (how much is measured) · harness.py (the clock and the ratio) · rows.py · memory.py ·
tuning_steps.py (what comparisons of steps time), then one file for each comparison: side_by_side.py · peft_step.py with
peft_side.py · importance_cost.py · dropped_tokens.py · subnormals.py · matrix_rate.py · bfloat16_cpu.py · t5_scale.py;
measuring.py runs them and writer.py writes their files.
"""
