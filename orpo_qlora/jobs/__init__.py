"""Background jobs: token counts and estimates. Floor 4."""
