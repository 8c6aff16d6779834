"""Which client may ask for what, and who answers: paths, rules and decisions.  Pure."""
