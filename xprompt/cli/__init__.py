"""The command line, `python -m xprompt SUBCOMMAND`: one file for each subcommand.

Each file declares its choices and calls the library; it never trains, measures or draws. torch is imported only once a
subcommand runs, so that every `--help` answers at once. Exit codes and errors are handled in `xprompt/__main__.py`.

Reading order: arguments.py (what subcommands share) · terminal.py (output that fails nothing) · signals.py (SIGTERM as
Ctrl-C) · run.py · plan.py · reproduce.py · book.py · bench.py · ls.py · check.py · predict.py ·
doctor.py
"""
