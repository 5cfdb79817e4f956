"""Texts about a run: model card, loss passport, reports as HTML and Markdown. Floor 5; no torch."""
