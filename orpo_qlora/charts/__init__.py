"""Measurements to SVG, for the page and for reports. Floor 4; no torch."""
