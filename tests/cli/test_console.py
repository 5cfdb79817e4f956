"""What the terminal makes of an error."""

from orpo_qlora.cli.console import with_options


def test_settings_in_hints_have_their_option():
    hint = "Train again with “Held-out share” above 0."
    assert with_options(hint) == "Train again with “Held-out share” (--set held_out=…) above 0."
    both = "Set “Compute dtype” to auto (--set compute_dtype=auto)."
    assert with_options(both) == both
