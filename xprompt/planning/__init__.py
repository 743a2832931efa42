"""What a report will cost on this machine, estimated before anything is downloaded or run.

This room never trains, downloads or decides a result: sizes come from configurations, operations from torch's
counter on the meta device, speed from a measurement of a second or two.

Reading order: footprint.py (a backbone) · workload.py (a run) · machine.py (its speed) · forecast.py (a report) ·
report.py (as text)
"""
