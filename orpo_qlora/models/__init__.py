"""Base models: which there are, what the hardware asks for, loading, generating. Floor 1."""
