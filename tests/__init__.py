"""The tests; this runs before anything imports torch."""

import os

# A thread that waits for another sleeps rather than spins: where other processes have the cores, tests take a third.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
