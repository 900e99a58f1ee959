"""Show: records -> plain data (``rows``, ``summarize``) -> a page, a terminal table, Markdown.

Nothing here computes a verdict: every number shown is the record's or is counted from its tables. One metric is
computed where the record lacks it, and then said to be: the rank correlation of a score with Δ⁺ (``training``).
Nothing here imports a model library, so a run can be looked at on any laptop.
"""
