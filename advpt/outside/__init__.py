"""Models of others, measured here as our own are: what they must be, what was checked, and what they are."""

from advpt.outside.load import load as load
from advpt.outside.model import OutsideModel as OutsideModel
