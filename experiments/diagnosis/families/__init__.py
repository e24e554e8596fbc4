"""Families of the zoo, by what they have in common; `experiments.diagnosis.zoo` has the table of all of them."""
