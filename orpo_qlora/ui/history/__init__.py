"""The Runs tab, many runs: list, comparison, λ sweep. Floor 6; page process."""
