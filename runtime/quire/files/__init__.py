"""Files that come with a model: opened with care, since whoever made the model wrote them.

`quire.files.file_regions`, which needs numpy, is imported by itself: text is read without it.
"""

from __future__ import annotations

from quire.files.json_file import parse_json, parse_object, read_json_object
from quire.files.model_folder import file_of, optional_file_of
from quire.files.reading import is_panic, reading
from quire.files.regular_file import MOST_TEXT_BYTES, open_regular, read_bytes, read_text
from quire.files.token_ids import end_tokens

__all__ = [
    "MOST_TEXT_BYTES",
    "end_tokens",
    "file_of",
    "is_panic",
    "open_regular",
    "optional_file_of",
    "parse_json",
    "parse_object",
    "read_bytes",
    "read_json_object",
    "read_text",
    "reading",
]
