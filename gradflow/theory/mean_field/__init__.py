"""Mean-field theory: signal and gradient in wide networks at initialization, as numbers and as profiles over depth."""
