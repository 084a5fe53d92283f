"""Credit: what each call did for the reward. A class here has `advantages`; a loss of `losses/` makes it an algorithm."""
