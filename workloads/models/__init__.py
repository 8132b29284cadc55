"""The networks of the catalogue, one family a file; torchvision has no part in them."""
