"""From a file of preferences to pairs and a report. Floor 1; no torch."""
