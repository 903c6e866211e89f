"""`python -m orchestrator_free` is the command `orchestrator-free`."""

from orchestrator_free.cli import main

main()
