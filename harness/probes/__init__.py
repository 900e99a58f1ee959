"""Probes: pure functions from labels or scores of two checkpoints to a ``Measurement``.

A probe is imported and called: ``from harness.probes.refusal import refusal_rate_drop``. It takes what the reference
and the candidate said or scored on the same items, and the limit to be answered; it never looks at a model.
"""
