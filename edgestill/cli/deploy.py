"""``edgestill deploy``: bring a bundle to a device and prove it there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from edgestill.cli import console


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("deploy")(deploy)


def deploy(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    device: Annotated[str, typer.Option(help="A device's name: edgestill devices list shows them.")],
    artifact: Annotated[
        list[str] | None, typer.Option(help="Artifact, several times or all (default: the one that the bundle ships).")
    ] = None,
    runner: Annotated[
        Path | None, typer.Option(help="edgestill-run for the device, or its folder (default: as its table says).")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="PEM file: the bundle must be signed by this key's owner, and unchanged since.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens that it shall hold there (default: as trained, at most 4096).")
    ] = None,
    fit_check: Annotated[
        bool, typer.Option("--fit-check/--no-fit-check", help="Refuse what won't fit into the memory that is free.")
    ] = True,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Change the version in use: for a disk without room for two.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that a self-test may take.")] = 1800.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Push what differs (runner, manifest, golden answers, tokenizer, artifacts) and run the self-test there."""
    from edgestill.bundle import open_bundle
    from edgestill.devices.deploy import deploy as deploy_bundle
    from edgestill.devices.registry import open_device

    opened = open_bundle(bundle)
    if public_key is not None:
        from edgestill.signing import verify_signature

        verify_signature(opened, public_key)
    with console.open_progress() as progress, open_device(device) as driver:
        done = deploy_bundle(
            opened,
            driver,
            artifact or (),
            runner=runner,
            context=context,
            fit_check=fit_check,
            in_place=in_place,
            timeout_seconds=timeout,
            progress=progress,
        )
    for note in done.notes:
        console.say(note)
    if as_json:
        from edgestill.device_documents import DeployDocument, DeployedArtifact
        from edgestill.fleet_results import Pushed

        tested = {name: done.self_tests[name].document for name in done.artifacts}
        document = DeployDocument(
            device=done.device,
            folder=done.folder,
            push=Pushed.model_validate(dataclasses.asdict(done.push)),
            runner=None if done.runner is None else Pushed.model_validate(dataclasses.asdict(done.runner)),
            artifacts=tuple(
                DeployedArtifact(name=name, selftest=None if one is None else dict(one)) for name, one in tested.items()
            ),
            notes=done.notes,
        )
        console.print_json(document.to_json())
        return
    push = done.push
    resumed = f", {console.size(push.resumed_bytes)} were there from before" if push.resumed_bytes else ""
    console.print_line(
        f"{device}: {done.folder}: {push.files_sent} files sent ({console.size(push.sent_bytes)}{resumed}), "
        f"{push.files_kept} kept, {push.files_removed} removed"
    )
    for name in done.artifacts:
        test = done.self_tests[name].document or {}
        console.print_line(
            f"{device}: {name}: self-test passed: {test.get('tokens')} tokens of {test.get('prompts')} golden answers, "
            f"{test.get('close_tokens')} of them close"
        )
