"""One verdict per connection: the events, and where they go."""
