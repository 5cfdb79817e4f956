"""ORPO beside SFT and DPO on real pairs: runs, measurements per pair, pictures and a page."""
