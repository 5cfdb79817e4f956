"""What leaves the program: adapter, model card, merged model, reports. Floor 5."""
