"""Files to rows of exact cells. Floor 1; no torch."""
