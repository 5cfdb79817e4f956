"""The Runs tab, one run: curves, answers, report card, export. Floor 6; page process."""
