"""Measures of what each latent learned and of image quality; one file a measure."""
