"""Loaders: spec strings of the command line to finite, repeatable batches."""

from sprig.core.batches import ImageSpec, Views
from sprig.data.arrays import crop_and_flip
from sprig.data.batches import Batches
from sprig.data.specs import KNOWN, load

__all__ = ["KNOWN", "Batches", "ImageSpec", "Views", "crop_and_flip", "load"]
