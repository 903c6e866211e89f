"""The fold: events in log order become the view, what a person reads, grouped by agent and run.

Pure: no I/O and no clock. Two promises, both kept by property tests: folding a prefix, writing the view out, loading it
and folding the rest equals folding all; and a compacted log (finished runs instead of their deltas) folds to the same
groups as the full one. The second holds because `run.finished` carries the folded parts and replaces what was there.
An event that makes no sense is skipped and counted, never half applied.
"""

from orchestrator_free.fold.run import FINAL, RunFold, View
from orchestrator_free.fold.session import Fold

__all__ = ["FINAL", "Fold", "RunFold", "View"]
