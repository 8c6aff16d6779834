"""TLS: the context, the verify callback, one verdict per connection, and the live connections."""
