"""A config.json as a model's builder reads it: typed, with ranges, and with nothing ignored."""
