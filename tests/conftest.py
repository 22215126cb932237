"""What the tests' own process has of whoever started it, and the programs that it starts are not to inherit.

Tests run side by side in workers; the programs under test are no workers, and meter. A shell's background job
ignores Ctrl-C; they are no such jobs.
"""

import os
import signal

for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
    os.environ.pop(name, None)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
