"""Sequences of images: photometry on their stamps, and classifiers of objects."""
