"""What every modality promises."""

from d2v.settings import Settings


class SourceSettings(Settings):
    """Where raw data lies."""

    source: str | None = None
    """A folder, a .csv or .tsv file, or `builtin:digits`."""
    path_column: str = "path"
    """Column of a table with each sample's file, relative to the table's folder."""
    label_column: str = "label"
    """Column of a table with the labels; a table may do without."""
    split_column: str = "split"
    """Column of a table with train, val or test; a table may do without."""
