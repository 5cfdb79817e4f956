"""Shapes of preference data, recognised by structure: one file per family. Floor 1; no torch."""
