"""Generators: the protocol that everything sees, ProGAN, and reading them from runs."""
