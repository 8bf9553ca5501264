"""Who may do what: tokens, private and gated repositories, in the Hub's statuses and error codes."""

from __future__ import annotations

from .store import RefusedError, Repository, Store

__all__ = ["may_read", "may_see", "may_write", "user_of"]


def user_of(store: Store, authorization: str | None) -> tuple[str, str] | None:
    """Name and role; None without a token."""
    if authorization is None:
        return None
    known = store.tokens.get(authorization.removeprefix("Bearer "))
    if known is None:
        raise RefusedError(401, "Invalid credentials in Authorization header")
    return known


def may_see(repository: Repository, user: tuple[str, str] | None) -> None:
    """That it exists, and what files it has."""
    if repository.private and (user is None or user[0] not in repository.granted | {repository.owner}):
        raise RefusedError(404 if user else 401, "Repository not found", "RepoNotFound")


def may_read(repository: Repository, user: tuple[str, str] | None) -> None:
    """The files' contents."""
    may_see(repository, user)
    if repository.gated and (user is None or user[0] not in repository.granted | {repository.owner}):
        words = f"Access to model {repository.id} is restricted and you are not in the authorized list."
        raise RefusedError(403 if user else 401, words, "GatedRepo")


def may_write(owner: str, user: tuple[str, str] | None) -> None:
    if user is None:
        raise RefusedError(401, "Invalid username or password.")
    if user != (owner, "write"):
        raise RefusedError(403, f"You don't have the rights to write to {owner}'s repositories")
