"""Blessed runs: a stored run's candidate under a name, that later ones must not be worse than (``--baseline``).

Names stand in ``RUN_DIR/baselines.json``. Only ``bless`` writes it: no run makes itself, or any other, a baseline. Its
stored answers, scores and masses stand in the reference's place for the limits ``ID@NAME`` (``policy.with_baseline``),
so no model is run for it. A limit for which it was asked otherwise than the run in progress (``conditions``) has no
number.
"""

from harness.baselines.blessing import Blessed, Blessing, bless, find, open_baseline
from harness.baselines.file import FILE, SCHEMA, Holder, describe, read
from harness.baselines.holding import hold

__all__ = [
    "FILE",
    "SCHEMA",
    "Blessed",
    "Blessing",
    "Holder",
    "bless",
    "describe",
    "find",
    "hold",
    "open_baseline",
    "read",
]
