"""How a client comes to be authorized without a file that is carried by hand."""
