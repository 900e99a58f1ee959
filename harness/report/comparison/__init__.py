"""A comparison, shown: in words, as a table, for machines, as a page."""
