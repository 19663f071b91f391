"""How the weights of the tiny profile were made."""
