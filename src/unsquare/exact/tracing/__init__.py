"""Follows a network without data, to learn what each of its layers is given."""
