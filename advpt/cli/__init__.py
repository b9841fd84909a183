"""``python -m advpt VERB``: look at the installation, attacks, banks and results, and run plans. One file per verb."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Collection

from advpt.data.listing import require_unicode
from advpt.errors import AdvPTError
from advpt.signals import report_stop, stoppable

VERBS = {
    "doctor": "versions, devices, weights, data; --check: published numbers",
    "attacks": "attacks and what a spec means",
    "defenses": "defenses and what a chain means",
    "backbones": "models and what each can do",
    "bank": "list or verify banks",
    "predict": "what a tuned model takes images for",
    "export": "a tuned model for other programs: safetensors or ONNX",
    "prompt": "show, import or export a learned prompt",
    "prepare": "fetch, lay out and check data sets",
    "run": "the plans of scripts/advpt: main, base_to_new, ...",
    "zero-shot": "one model on all data sets that have data",
    "sweep": "data sets x backbones x trainers x shots x seeds",
    "reproduce": "the paper's tables and figures",
    "benchmark": "which published gains survive who knows the method",
    "statistics": "statistics bank of a run's prompts",
    "config": "a configuration as one flat yaml file",
    "report": "tables of records",
    "verify": "make the attacks of records anew, and compare",
}


def parser(verbs: Collection[str] = VERBS) -> argparse.ArgumentParser:
    """The parser; ``verbs``: those whose own arguments are wanted, as their modules take a while to import."""
    top = argparse.ArgumentParser(prog="python -m advpt", description=__doc__)
    top.add_argument("--verbose", action="store_true", help="more log lines, and tracebacks for errors")
    subparsers = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, summary in VERBS.items():
        sub = subparsers.add_parser(verb, help=summary)
        if verb in verbs:
            module = importlib.import_module(f"advpt.cli.{verb.replace('-', '_')}")
            sub.description = module.run.__doc__
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return top


def main(argv: list[str] | None = None) -> int:
    """The exit status of a command line: 0, 1 where something is not as it should be, 2 for a mistake of the user."""
    words = sys.argv[1:] if argv is None else argv
    args = parser([word for word in words if word in VERBS][:1]).parse_args(words)
    logging.basicConfig(level=logging.DEBUG if args.verbose else logging.INFO, format="%(message)s")
    try:
        require_unicode(words, "the command line")
        with stoppable():
            return int(args.run(args))
    except BrokenPipeError:  # the reader (head, a pager) has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        return report_stop(stop)
    except AdvPTError as error:
        if args.verbose:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
