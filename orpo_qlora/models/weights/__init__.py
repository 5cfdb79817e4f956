"""The files of weights: found, converted, sized. Floor 1."""
