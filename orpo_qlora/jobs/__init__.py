"""Background jobs: a generic job, token counts and estimates. Floor 4."""
