"""Films over HTTP: OpenAI's Videos API, what the field's servers add to it, live streams and events."""
