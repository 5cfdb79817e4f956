"""The page: reads the store and starts programs. Floor 6; no torch."""
