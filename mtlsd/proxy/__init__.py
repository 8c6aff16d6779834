"""Requests on their way to a server behind the door, and its answers on theirs back."""
