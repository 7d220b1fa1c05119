"""The OpenAI-compatible HTTP server. It talks to an engine process and holds no model itself."""
