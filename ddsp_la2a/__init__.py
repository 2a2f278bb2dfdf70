"""Differentiable grey-box modelling of the Teletronix LA-2A levelling amplifier."""

__version__ = "0.1.0"
