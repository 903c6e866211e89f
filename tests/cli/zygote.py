"""Commands as processes that need not import everything first: forked from one that has done so, and nothing else.

Each line of standard input is a request in JSON: `arguments`, `environment`, `folder` and the files that the command
has for `input`, `output` and `errors`; each answer is a line with its exit code, after it has ended.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from orchestrator_free.cli import main


def run(request: dict[str, Any]) -> None:
    """Be the command."""
    os.chdir(request["folder"])
    for number, (name, flags) in enumerate((("input", os.O_RDONLY), ("output", os.O_WRONLY), ("errors", os.O_WRONLY))):
        os.dup2(os.open(request[name], flags), number)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["orchestrator-free", *request["arguments"]]
    main()


def serve() -> None:
    """Answer requests, one after the other, until there are no more."""
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            run(json.loads(line))
            sys.exit(0)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
