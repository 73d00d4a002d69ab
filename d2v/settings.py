"""The base of every settings class: typed, frozen, and closed to unknown keys."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """One section of a recipe.

    A setting lives beside the code that uses it; its docstring gives unit and source, its default
    is the paper's unless the docstring says otherwise.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )
