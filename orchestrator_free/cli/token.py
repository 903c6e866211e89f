"""The commands of identity: `token` makes one, `token keys` the keys that sign them, `token revoke` ends some."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from orchestrator_free.cli.auditing import audited, remember
from orchestrator_free.cli.options import AsJson, err, out, reach, run, write_json
from orchestrator_free.errors import InvalidInput
from orchestrator_free.gateway.access.revocations import revoke_all, revoke_member, revoke_token
from orchestrator_free.identity.keys import public_path, read_key_file, rotate_keys, write_new_keys
from orchestrator_free.identity.principal import CAPABILITIES, DEFAULT_CAPABILITIES
from orchestrator_free.identity.tokens import AUDIENCE, ISSUER, TTL_SECONDS, id_of, mint
from orchestrator_free.jetstream import AccessBucket
from orchestrator_free.subjects import check_name

KEYS: Final = Path(".orchestrator-free/keys.json")

token_app = typer.Typer(
    invoke_without_command=True,
    no_args_is_help=True,
    help="Make a token for the gateway: who speaks, in which sessions, and what that member may do.",
)

KeyFile = Annotated[Path, typer.Option("--keys", help="The private key file.")]


@token_app.callback()
def token(
    context: typer.Context,
    member: Annotated[str | None, typer.Option(help="Whose token: the member who speaks.")] = None,
    session: Annotated[
        list[str] | None,
        typer.Option(help="A session it is for; support-* for all that begin so, * for all. Repeat it for more."),
    ] = None,
    cap: Annotated[
        str, typer.Option(help=f"Capabilities, separated by commas, of: {', '.join(CAPABILITIES)}.")
    ] = ",".join(DEFAULT_CAPABILITIES),
    agents: Annotated[
        str | None, typer.Option(help="Whose words it may read beside its own, separated by commas; all if absent.")
    ] = None,
    stream: Annotated[
        list[str] | None, typer.Option(help="A path below /v1/stream/ it is for; written as sessions are.")
    ] = None,
    ttl: Annotated[int, typer.Option(help="Seconds it counts.", min=1)] = TTL_SECONDS,
    issuer: str = ISSUER,
    audience: str = AUDIENCE,
    keys: KeyFile = KEYS,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it."""
    if context.invoked_subcommand is not None:
        return

    async def work() -> None:
        if member is None or not session:
            raise InvalidInput("whose token, and for which sessions? Pass --member and --session, as --session 'ann-*'")
        made = mint(
            next(iter(read_key_file(keys).values())), member,
            sessions=session, capabilities=_names(cap), streams=stream or None, seconds=ttl,
            agents=None if agents is None else _names(agents), issuer=issuer, audience=audience,
        )  # fmt: skip
        if as_json:
            write_json({"token": made, "member": member, "seconds": ttl})
        else:
            out.print(made, highlight=False, soft_wrap=True)

    run(work())


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


@token_app.command("keys")
def make_keys(
    file: Annotated[Path, typer.Argument(help="The private key file; its public set stands beside it.")] = KEYS,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Put a new key in front; tokens of the one before count until they expire.")
    ] = False,
    algorithm: Annotated[
        Literal["EdDSA", "ES256", "HS256"] | None,
        typer.Option(help="EdDSA if absent. HS256 only where who makes and who checks tokens is one host."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key file, mode 0600, and its public set; or rotate it."""

    async def work() -> None:
        written = rotate_keys(file, algorithm) if rotate else write_new_keys(file, algorithm or "EdDSA")
        first = next(iter(read_key_file(file).values()))
        if as_json:
            write_json({"files": [str(path) for path in written], "key": first.id, "algorithm": first.algorithm})
            return
        checked = public_path(file) if public_path(file) in written else file
        err.print(
            f"{file}: key {first.id} ({first.algorithm}) signs; only who makes tokens may have it\n"
            f"a gateway checks them with:  orchestrator-free up --auth-keys {checked}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip

    run(work())


@token_app.command()
@audited("token revoke", "id", "everybody")
def revoke(
    member: Annotated[str | None, typer.Option(help="Every token made for this member up to now.")] = None,
    token: Annotated[str | None, typer.Option(help="This token; - reads it from standard input.")] = None,
    id: Annotated[str | None, typer.Option(help="The token of this id (jti).")] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Every token made up to now, whoever has it.")] = False,
) -> None:
    """Let tokens count no more, at every gateway; open feeds end within seconds."""

    async def work() -> None:
        if sum((member is not None, token is not None, id is not None, everybody)) != 1:
            raise InvalidInput("what is revoked? Pass one of --member, --token, --id and --all")
        remember(whose=member)
        async with reach.connect("token") as broker:
            bucket = AccessBucket(broker.log)
            await bucket.open()
            what = await _revoke(bucket, member, token, id)
        err.print(f"revoked {what}", highlight=False)

    run(work())


async def _revoke(bucket: AccessBucket, member: str | None, token: str | None, id: str | None) -> str:
    """Revoke the one that is given, every token if none is; return what that was, in words."""
    if member is not None:
        await revoke_member(bucket, check_name("--member", member))
        return f"every token of {member} up to now"
    if id is not None:
        await revoke_token(bucket, id)
        return "the token"
    if token is not None:
        shown = str(token)
        known, seconds = id_of(typer.get_text_stream("stdin").read().strip() if shown == "-" else shown)
        remember(id=known)
        await revoke_token(bucket, known, seconds=seconds)
        return "the token"
    await revoke_all(bucket)
    return "every token up to now"
