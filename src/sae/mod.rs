//! Sparse autoencoders: variants, initialisation, step, optimiser, dead latents.
