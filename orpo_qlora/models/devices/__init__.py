"""The devices of this machine, and what a model needs of them. Floor 1."""
