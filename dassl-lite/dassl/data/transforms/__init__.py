"""Image transforms."""

from dassl.data.transforms.transforms import INTERPOLATION_MODES, build_transform
