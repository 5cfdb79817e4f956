"""What a run leaves to take away: adapter, model card, merged model. Floor 4."""
