"""The job that answers prompts with several models and measures the answers."""
