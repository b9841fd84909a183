"""Evaluators."""

from dassl.evaluation.build import EVALUATOR_REGISTRY, build_evaluator
from dassl.evaluation.evaluator import Classification, EvaluatorBase
