"""Metrics."""

from dassl.metrics.accuracy import compute_accuracy
from dassl.metrics.distance import compute_distance_matrix, cosine_distance, euclidean_squared_distance
