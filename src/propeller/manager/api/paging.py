"""Where a page of a list begins and how long it is, the same for every route."""

from typing import Annotated

from litestar.params import QueryParameter

from propeller import limits

Offset = Annotated[int, QueryParameter(ge=0, le=limits.LIST_OFFSET_MAX, description="How many to skip")]
Limit = Annotated[
    int, QueryParameter(ge=0, le=limits.LIST_OFFSET_MAX, description="How many to show; 0 counts only")
]
TaskLimit = Annotated[int, QueryParameter(ge=1, le=limits.LIST_PAGE_MAX, description="How many to show")]
