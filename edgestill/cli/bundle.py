"""``edgestill bundle``: pack, inspect, verify and sign bundles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgestill.cli import console

if TYPE_CHECKING:
    from edgestill.runtime.self_test import SelfTest


def add_to(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(help="Pack, inspect, verify and sign bundles.", no_args_is_help=True)
    group.command("pack")(pack)
    group.command("inspect")(inspect)
    group.command("verify")(verify)
    group.command("sign")(sign)
    app.add_typer(group, name="bundle")


def pack(
    checkpoint: Annotated[Path, typer.Argument(help="The student's Hugging Face folder (tokenizer, chat template).")],
    artifacts: Annotated[list[Path], typer.Argument(help="Artifact folders, as export and quantize write them.")],
    prompts: Annotated[Path, typer.Option(help="Rows whose prompts become the golden answers.")],
    out: Annotated[Path, typer.Option(help="The bundle's folder.")],
    name: Annotated[str | None, typer.Option(help="Name of the bundle (default: the checkpoint's folder).")] = None,
    task: Annotated[str, typer.Option(help="Task that the bundle is for.")] = "text",
    golden_prompts: Annotated[int, typer.Option(min=1, help="How many prompts.")] = 20,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each golden answer, at most.")] = 64,
    ship: Annotated[str | None, typer.Option(help="The artifact that is meant to be deployed.")] = None,
    system: Annotated[
        Path | None, typer.Option(help="A text file: the system prompt whose computed state each artifact carries.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Pack artifacts with tokenizer, golden answers and hashes."""
    from edgestill.artifact import Checkpoint
    from edgestill.errors import InputError
    from edgestill.packing import pack_artifacts
    from edgestill.quantize import artifact_from_path

    try:
        prompt = None if system is None else system.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"--system {system}: not a readable text file ({error})") from error
    if prompt == "":
        raise InputError(f"--system {system}: the file is empty")
    with console.open_progress() as progress:
        bundle = pack_artifacts(
            Checkpoint.open(checkpoint),
            [artifact_from_path(path) for path in artifacts],
            prompts=prompts,
            out=out,
            name=name or checkpoint.resolve().name,
            task=task,
            golden_prompts_count=golden_prompts,
            max_new_tokens=max_new_tokens,
            ship=ship,
            progress=progress,
            system=prompt,
        )
    if as_json:
        console.print_json(bundle.manifest.model_dump_json(indent=2, by_alias=True))
    else:
        console.print_line(f"packed {len(bundle.manifest.artifacts)} artifacts into {out}")


def inspect(
    folder: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Show what a bundle's manifest says."""
    from edgestill.bundle import open_bundle

    manifest = open_bundle(folder).manifest
    if as_json:
        console.print_json(manifest.model_dump_json(indent=2, by_alias=True))
        return
    typer.echo(f"{manifest.name}: task {manifest.task}, packed {manifest.created}, context {manifest.context_length}")
    typer.echo(f"content sha256 {manifest.content_sha256}")
    rows = []
    for artifact in manifest.artifacts:
        parity = artifact.parity
        shipped = " (ships)" if artifact.name == manifest.ship else ""
        rows.append(
            [
                artifact.name + shipped,
                console.size(artifact.size_bytes),
                console.figure(None if parity is None else parity.top1_agreement),
                *(console.figure(artifact.metrics.get(key)) for key in ("accuracy", "bits_per_byte")),
                artifact.sha256[:12],
            ]
        )
    console.print_table(["artifact", "size", "top-1 agreement", "accuracy", "bits per byte", "sha256"], rows)


def verify(
    folder: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    golden: Annotated[bool, typer.Option(help="Replay golden.jsonl on every artifact.")] = True,
    close: Annotated[
        bool,
        typer.Option("--close", help="Go along the golden answers; a token that is nearly this machine's passes too."),
    ] = False,
    public_key: Annotated[
        Path | None, typer.Option(help="PEM file: it must be signed by this key's owner, and unchanged since.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check every hash, then generate every golden answer again on every artifact.

    Another kind of processor than the packer's rounds differently: --close is for it.
    """
    import json

    from edgestill.bundle import open_bundle, verify_files

    bundle = open_bundle(folder)
    if public_key is not None:
        from edgestill.signing import verify_signature

        verify_signature(bundle, public_key)
    verify_files(bundle)
    compared = 0
    tests: list[SelfTest] = []
    if golden and close:
        from edgestill.runtime.self_test import self_test
        from edgestill.runtime.session import Session

        with console.open_progress() as progress:
            for artifact in bundle.manifest.artifacts:
                with Session.open(bundle.artifact_folder(artifact.name)) as session:
                    tests.append(self_test(session, bundle, artifact.name, progress=progress))
        compared = sum(test.prompts for test in tests)
    elif golden:
        from edgestill.runtime.golden import replay_golden

        with console.open_progress() as progress:
            compared = replay_golden(bundle, progress=progress)
    if as_json:
        document = {
            "schema": "edgestill.verify/1",
            "bundle": str(folder),
            "content_sha256": bundle.manifest.content_sha256,
            "files": len(bundle.manifest.files),
            "golden_answers": compared if golden else None,
            "signed": None if public_key is None else True,
            **({"self_tests": [json.loads(test.to_json()) for test in tests]} if tests else {}),
        }
        console.print_json(json.dumps(document, indent=2))
    else:
        replayed = f"{compared} golden answers equal" if golden else "golden answers not replayed"
        if tests:
            nearly = sum(test.close_tokens for test in tests)
            largest = max(test.largest_gap for test in tests)
            replayed = f"{compared} golden answers gone along, {nearly} of {sum(test.tokens for test in tests)} tokens "
            replayed += f"close (at most {largest:.2%} of their logit's height)"
        signed = "" if public_key is None else "signed by that key's owner, "
        typer.echo(f"{folder}: {signed}{len(bundle.manifest.files)} files intact, {replayed}")


def sign(
    folder: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    key: Annotated[Path, typer.Option(help="The private key of an elliptic curve (P-256, P-384, P-521), a PEM file.")],
) -> None:
    """Sign a bundle: model.sig in it, over the hash of every file, as OpenSSF's model-signing writes it.

    A key's password is read from $EDGESTILL_SIGNING_PASSWORD.
    """
    from edgestill.bundle import open_bundle
    from edgestill.signing import sign_bundle

    typer.echo(f"signed: {sign_bundle(open_bundle(folder), key)}")
