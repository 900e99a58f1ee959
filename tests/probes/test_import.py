"""Collecting evals imports the probes, so that must stay quick."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_probes_loads_no_heavy_library():
    code = (
        "import sys, harness.probes.refusal, harness.probes.displacement, harness.probes.catastrophic\n"
        "import harness.probes.preference, harness.probes.similarity\n"
        "print([m for m in ('scipy', 'statsmodels', 'pandas', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
