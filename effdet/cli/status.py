"""The exit statuses of the command line, the same for every verb.

Which one a verb ends with is decided in its own module; `README.md` has the table for users.
"""

from __future__ import annotations

DONE = 0
FAILED = 1  # an error that is explained, or the answer "no" of verify, doctor, replay and plan
USAGE = 2  # arguments that cannot be parsed; argparse uses it too
BAD_INPUTS = 3  # everything else is done, but some inputs are bad; they are listed
OUT_OF_TIME = 75  # asks to be started again: EX_TEMPFAIL of sysexits.h
INTERRUPTED = 130  # by Ctrl-C: 128 + SIGINT
TERMINATED = 143  # 128 + SIGTERM
