"""Writes the files: `python -m orchestrator_free.contract_files FOLDER [SHARDS]`."""

import sys

from orchestrator_free.contract_files import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
