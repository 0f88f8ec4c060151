"""Inputs: from the raw thing to the arrays that networks take."""

from kerasnets.preprocessing.byte_pairs import BytePairs
from kerasnets.preprocessing.unigram import Unigram
from kerasnets.preprocessing.wordpiece import WordPiece

__all__ = ["BytePairs", "Unigram", "WordPiece"]
