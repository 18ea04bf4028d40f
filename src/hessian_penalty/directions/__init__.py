"""Interpretable directions in the latent space of a frozen generator."""
