"""What the cells of preference data hold: texts, turns, tools, media. Floor 1; no torch."""
