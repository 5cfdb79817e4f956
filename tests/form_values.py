"""What a browser sends for the settings form."""

from orpo_qlora.ui.parts import form


def values_of(config):
    """Return the values of the form's inputs for these settings."""
    return [form.shown_value(name, value) for name, value in form.named_values(config).items()]
