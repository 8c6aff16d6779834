"""How a client that nobody knows yet becomes one that is authorized."""
