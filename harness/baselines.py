"""Blessed runs (``bless``, ``--baseline``)."""
