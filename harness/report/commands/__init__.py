"""What commands print that are not about a run: pairs, labels, recipes, baselines."""
