"""Paper-style figures that check themselves: `python -m experiments` lists them."""
