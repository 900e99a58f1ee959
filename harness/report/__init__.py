"""Show: records -> plain data -> pages, terminal tables, Markdown.

``rows`` is what a record says by itself, ``summarize`` and ``evidence`` what its tables hold; ``html`` draws the page
of a run, with the parts in ``page``. ``comparison`` shows runs beside each other, ``history`` the runs of a directory,
``terminal``, ``markdown``, ``model_card`` and ``flat`` a run elsewhere, ``commands`` what other commands print.

Nothing here computes a verdict: every number shown is the record's or is counted from its tables. One metric is
computed where the record lacks it, and then said to be: the rank correlation of a score with Δ⁺
(``evidence.training``). Nothing here imports a model library, so a run can be looked at on any laptop.
"""
