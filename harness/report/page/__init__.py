"""What pages are made of: scripts and styles, packs, lists of cards, figures."""
