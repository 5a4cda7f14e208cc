//! Language models: decoder description, weights, forward with hook points.
