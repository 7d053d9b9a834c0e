"""Differentiable multi-scale audio-visual synchrony losses, syncers, generator and discriminators for talking heads."""

__version__ = "0.1.0"
