"""A benchmark's documents; errors about one name its row in the benchmark's file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from coincide.schema import UserError

IDS = ("question_id", "questionId", "id", "index")
"""Columns that identify a document, tried in this order."""


class TaskDocument(dict[str, Any]):
    """A document (column -> value) with its row in the file."""

    row: int | None = None


class TaskDocuments(Sequence[TaskDocument]):
    """The documents of a split; takes the place of the ``datasets`` table.

    Raises UserError, naming benchmark and row, for a document that cannot be read, e.g. because its
    picture does not decode.
    """

    def __init__(self, table: Any, benchmark: str, rows: Sequence[int] | None = None) -> None:
        """``rows``: the row in the file of each row of ``table``; None: the same."""
        self.table, self.benchmark = table, benchmark
        self.rows = range(len(table)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.table)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.table, name)

    def __getitem__(self, at: Any) -> Any:
        if not isinstance(at, int):
            return self.table[at]
        row = self.rows[at]
        try:
            document = TaskDocument(self.table[at])
        except UserError as error:
            raise UserError(f"{place(self.benchmark, row)}: {error}") from error
        document.row = row
        return document

    def __iter__(self) -> Iterator[TaskDocument]:
        return (self[at] for at in range(len(self)))


def place(benchmark: str, row: int | None, document: Mapping[str, Any] | None = None) -> str:
    """A document in words, for a message: ``benchmark pope, row 7 (question_id 3)``."""
    named = [f"{name} {document[name]!r}" for name in IDS if document and name in document]
    at = f", row {row}" if row is not None else ""
    return f"benchmark {benchmark}{at}{f' ({named[0]})' if named else ''}"


def root_error(error: BaseException) -> BaseException:
    """The original error inside tenacity's ``RetryError``, in which lmms-eval wraps all errors."""
    from tenacity import RetryError

    while isinstance(error, RetryError):
        inner = error.last_attempt.exception()
        if inner is None:
            return error
        error = inner
    return error


def naming_document(call: Callable[..., Any], benchmark: str, what: str) -> Callable[..., Any]:
    """``call``, a function of a document; its errors become UserErrors that name the document.

    ``what``: what it does, e.g. ``asking``.
    """

    def named(document: Any, *others: Any, **more: Any) -> Any:
        try:
            return call(document, *others, **more)
        except Exception as error:
            cause = root_error(error)
            row = document.row if isinstance(document, TaskDocument) else None
            empty = [name for name, value in document.items() if value is None]
            why = str(cause) if isinstance(cause, UserError) else f"{type(cause).__name__}: {cause}"
            hint = f"; its empty columns: {', '.join(empty)}" if empty else ""
            hint += f"; its columns: {', '.join(document)}" if isinstance(cause, KeyError) else ""
            raise UserError(
                f"{place(benchmark, row, document)}: {what} fails with {why}{hint}. Correct or "
                "remove this document."
            ) from error

    return named
