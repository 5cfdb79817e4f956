"""Serving, login, upload limits and protection of the page. Floor 6; page process."""
