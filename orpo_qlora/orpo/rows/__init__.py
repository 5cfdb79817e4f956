"""From preference pairs to rows of tokens. Floor 2."""
