"""Training a ProGAN with or without the Hessian Penalty."""
