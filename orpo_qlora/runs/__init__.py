"""The life of a run: its folder, its worker and what readers see of it. Floor 3."""
