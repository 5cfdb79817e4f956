"""From a preference file to pairs and a data summary. Floor 1; no torch."""
