"""The command `s2l gc`: what is deleted, or would be."""

import shlex

from s2l_ray.terminal.commands import invocation
from s2l_ray.terminal.console import print_json, print_message, stdout_console


def collect(root: str, yes: bool, json_: bool) -> None:
    """List artifacts and files that no run refers to; delete them if `yes`."""
    from s2l_ray.catalog.gc import find_garbage, remove_garbage
    from s2l_ray.terminal.store_views import garbage_total, garbage_view

    found = find_garbage(root)
    if found and not json_:
        stdout_console().print(garbage_view(root, found))
    removed = list(remove_garbage(root, found)) if yes else []
    if json_:
        size = sum(one.bytes for one in found)
        print_json({"found": found, "removed": [one.uri for one in removed], "bytes": size})
    elif yes:
        kept = f"; {len(found) - len(removed)} are in use since" if len(removed) < len(found) else ""
        print_message(f"deleted {garbage_total(removed)}{kept}")
    elif found:
        print_message(f"nothing was deleted; to delete what is listed: {invocation()} gc {shlex.quote(root)} --yes")
    else:
        print_message("nothing to delete: every artifact belongs to a run")


def collect_weights(root: str, yes: bool, json_: bool) -> None:
    """List weights of checkpoints that are scored; delete those that nothing needs if `yes`."""
    from s2l_ray.catalog.weights import delete_weights, find_scored_weights
    from s2l_ray.terminal.store_views import weights_total, weights_view

    found = find_scored_weights(root)
    if found and not json_:
        stdout_console().print(weights_view(root, found))
    deleted = delete_weights(root) if yes else []
    deletable = [one for one in found if not one.kept_for]
    if json_:
        print_json({"found": found, "deleted": [one.uri for one in deleted]})
    elif yes:
        print_message(f"deleted {weights_total(deleted)}")
    elif deletable:
        command = f"{invocation()} gc {shlex.quote(root)} --weights --yes"
        print_message(f"nothing was deleted; to delete {weights_total(deletable)}: {command}")
    else:
        print_message("nothing to delete: no weights of scored checkpoints are stored")
