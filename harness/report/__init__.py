"""Show: records -> plain data (``rows``, ``summarize``) -> a page, a terminal table, Markdown.

Nothing here computes a verdict or a metric: every number shown is the record's or is counted from its tables.
Nothing here imports a model library, so a run can be looked at on any laptop.
"""
