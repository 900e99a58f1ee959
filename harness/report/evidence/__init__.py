"""What stands behind a candidate's numbers, read from the run's tables: plain data, no HTML."""
