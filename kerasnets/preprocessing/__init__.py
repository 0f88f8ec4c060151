"""Inputs: from the raw thing to the arrays that networks take."""
