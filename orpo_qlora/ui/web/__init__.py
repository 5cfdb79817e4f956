"""How the page is served, to whom, and who may use it. Floor 6; page process."""
