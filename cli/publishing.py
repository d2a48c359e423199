# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""`flashsloth push`: models and Spaces go to the Hub."""

import argparse
import contextlib
import sys

from flashsloth.cli.messages import show_messages
from flashsloth.cli.options import add_command


# The options of `push` that a Space has no use for.
OPTIONS_OF_CARDS = ("card", "license", "language", "dataset", "base_model", "example", "keep_card")


def add_push(commands) -> None:
    summary = "upload a model folder to the Hub, with a model card, or a Space"
    push = add_command(commands, "push", run_push, summary)
    push.add_argument("folder", metavar="DIR", help="model folder")
    push.add_argument("--space", action="store_true", help="DIR is a Space that `demo --space` wrote")
    push.add_argument("repo_id", metavar="REPO_ID", help="owner/name; made if it does not exist")
    push.add_argument("--private", action="store_true", help="make the new repository private")
    push.add_argument("--revision", metavar="R", help="branch (made if missing) or refs/pr/N (default: main)")
    push.add_argument("--create-pr", action="store_true", help="propose it as a pull request")
    push.add_argument("--message", metavar="TEXT", help="of the commit, or title of the pull request")
    push.add_argument("--dry-run", action="store_true", help="check DIR and list what would be uploaded, offline")
    push.add_argument("--card", metavar="FILE", help="with --dry-run: write the model card to FILE")
    push.add_argument("--license", metavar="L", help="license id, such as apache-2.0 (default: the base models')")
    listed = {"metavar": "ID", "action": "append", "default": []}
    push.add_argument("--language", **listed | {"metavar": "L"}, help="language code, such as en; may be repeated")
    push.add_argument("--dataset", **listed, help="data on the Hub that it was trained on; may be repeated")
    push.add_argument("--base-model", **listed, help="model on the Hub that it was made from; may be repeated")
    push.add_argument(
        "--example",
        nargs=2,
        metavar=("IMAGE", "QUESTION"),
        help="image that is uploaded, and the question about it that the card shows with the model's answer",
    )
    push.add_argument(
        "--keep-card",
        action="store_true",
        help="make no model card: upload DIR's README.md, or leave the one on the Hub as it is",
    )


def run_push(args: argparse.Namespace) -> None:
    show_messages()
    if args.space:
        _push_space(args)
        return
    from flashsloth.publish import hub
    from flashsloth.publish.card import read_example

    options = {
        "keep_card": args.keep_card,
        "license": args.license,
        "languages": args.language,
        "datasets": args.dataset,
        "base_models": args.base_model,
        "example": read_example(*args.example) if args.example else None,
    }
    if args.card and not args.dry_run:
        raise ValueError("--card writes the model card of a --dry-run: add --dry-run, or leave --card out.")
    if args.dry_run:
        with contextlib.redirect_stdout(sys.stderr):
            sizes = hub.preview(args.folder, args.repo_id, args.card, **options)
        _print_sizes(sizes)
        return
    with contextlib.redirect_stdout(sys.stderr):
        url = hub.push(
            args.folder,
            args.repo_id,
            private=args.private,
            revision=args.revision,
            create_pr=args.create_pr,
            message=args.message or hub.MESSAGE,
            **options,
        )
    print(url)


def _push_space(args: argparse.Namespace) -> None:
    from flashsloth.publish import space

    for name in OPTIONS_OF_CARDS:
        if vars(args)[name]:
            raise ValueError(f"--{name.replace('_', '-')} is for the card of a model: leave it out with --space.")
    if args.dry_run:
        _print_sizes(space.preview_space(args.folder, args.repo_id))
        return
    target = {name: vars(args)[name] for name in ("private", "revision", "create_pr")}
    with contextlib.redirect_stdout(sys.stderr):
        url = space.push_space(args.folder, args.repo_id, **target, message=args.message or space.MESSAGE)
    print(url)


def _print_sizes(sizes: dict[str, int]) -> None:
    for name, size in [*sorted(sizes.items()), (f"{len(sizes)} files", sum(sizes.values()))]:
        print(f"{size:>15,}  {name}")
