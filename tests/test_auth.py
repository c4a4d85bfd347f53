"""Tokens: their files, and how they are given."""

import base64
from pathlib import Path

import pytest

from actions.auth import TokenFileError, Tokens, read_tokens
from exporter.config import Actions

TOKENS = Tokens({"webhook": b"w" * 32, "operator": b"o" * 32})


def settings(tmp_path: Path, webhook: bytes, operator: bytes) -> Actions:
    """Make settings whose token files hold these bytes."""
    (tmp_path / "w").write_bytes(webhook)
    (tmp_path / "o").write_bytes(operator)
    return Actions.model_validate(
        {"webhook_token_file": str(tmp_path / "w"), "operator_token_file": str(tmp_path / "o")}
    )


@pytest.mark.parametrize(
    ("header", "role"),
    [
        (b"Bearer " + b"w" * 32, "webhook"),
        (b"bearer  " + b"o" * 32, "operator"),
        (b"Basic " + base64.b64encode(b"anybody:" + b"o" * 32), "operator"),
        (b"Basic " + base64.b64encode(b"o" * 32), None),
        (b"Basic %%%", None),
        (b"Bearer", None),
        (b"Bearer " + b"w" * 31, None),
        (b"Digest " + b"w" * 32, None),
        (b"", None),
    ],
)
def test_whose_token(header: bytes, role: str | None) -> None:
    """A Bearer token or a browser's Basic password says who asks; anything else is nobody."""
    assert TOKENS.role_of(header) == role


def test_no_token_files_no_tokens() -> None:
    """On loopback without token files nobody is asked who they are."""
    assert read_tokens(Actions()).by_role is None


def test_token_files_may_end_with_a_newline(tmp_path: Path) -> None:
    """`openssl rand -hex 32 > FILE` writes one."""
    tokens = read_tokens(settings(tmp_path, b"a" * 32 + b"\n", b"b" * 32 + b"\n"))
    assert tokens.by_role == {"webhook": b"a" * 32, "operator": b"b" * 32}


@pytest.mark.parametrize(
    ("webhook", "operator", "said"),
    [
        (b"", b"b" * 32, r"/w: expected one token of at least 16 characters"),
        (b"a" * 15, b"b" * 32, r"/w: expected one token"),
        (b"a" * 32, b"b" * 16 + b" " + b"b" * 16, r"/o: expected one token"),
        (b"a" * 32, b"a" * 32, r"hold the same token"),
    ],
)
def test_a_token_that_guards_nothing_is_refused(
    tmp_path: Path, webhook: bytes, operator: bytes, said: str
) -> None:
    """Empty, short, several, or the same for both: the program does not start."""
    with pytest.raises(TokenFileError, match=said):
        read_tokens(settings(tmp_path, webhook, operator))


def test_a_missing_token_file_is_named(tmp_path: Path) -> None:
    """The error says which file can't be read."""
    actions = settings(tmp_path, b"a" * 32, b"b" * 32)
    (tmp_path / "o").unlink()
    with pytest.raises(TokenFileError, match=r"/o: can't be read: No such file"):
        read_tokens(actions)
