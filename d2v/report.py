"""What a command answers: a headline, a table, remarks. Printing it is the command line's job."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Report:
    """The end of a command, for a person.

    Args:
        headline: one line: what was done, where it lies.
        columns: headings of the table; empty for no table.
        rows: cells as text, one list a row, as long as `columns`.
        highlight: number of the row that the others are there to be compared with.
        remarks: lines below the table.
        text: plain text printed as it is (the plan of a dry run, a resolved recipe).
    """

    headline: str
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    highlight: int | None = None
    remarks: list[str] = field(default_factory=list)
    text: str = ""
