"""Speed, memory and error of scoring preference pairs, beside other engines: ``python -m benchmarks`` (``make bench``).

``floor`` the least work there is, ``profiles`` the pairs, ``cases`` what is compared, ``engines`` one adapter per
library, ``worker`` the process an adapter lives in, ``rounds`` who computes when, ``table`` results as text. The
protocol and what the columns mean: ``docs/benchmarks.md``.
"""
