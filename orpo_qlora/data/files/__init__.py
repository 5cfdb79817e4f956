"""Which files a data set is made of. Floor 1; no torch."""
