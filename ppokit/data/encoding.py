"""Text of a file, whichever program wrote it: UTF-8, UTF-16 with its byte order mark, or Windows-1252."""

from __future__ import annotations

from ppokit.errors import DataError

_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


def decode(data: bytes, path: str) -> tuple[str, list[str]]:
    """The text, and notes for a person where the encoding is not plainly UTF-8.

    Where most of a file is UTF-8, bytes that are not become lone surrogates, so that only their rows are bad.

    Raises:
        DataError: the bytes are no text in a known encoding.
    """
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            data = data[len(bom) :]
            if encoding == "utf-8":
                break
            try:
                return data.decode(encoding), [f"read as {encoding.upper()}, as its byte order mark says"]
            except UnicodeDecodeError as error:
                raise DataError(f"{path} begins as {encoding.upper()} but is not: {error.reason}") from error
    if data[:400].count(0) > len(data[:400]) // 4:
        raise DataError(
            f"{path} looks like UTF-16 without a byte order mark, or is no text; save it as UTF-8."
        )
    try:
        return data.decode("utf-8"), []
    except UnicodeDecodeError:
        escaped = data.decode("utf-8", errors="surrogateescape")
    undecoded = sum("\udc80" <= c <= "\udcff" for c in escaped)
    decoded = sum(c > "\x7f" for c in escaped) - undecoded
    if decoded >= undecoded:
        return escaped, []
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is neither UTF-8 nor Windows-1252 text (byte {error.start:,} is "
            f"0x{data[error.start]:02x}); save it as UTF-8."
        ) from error
    index = next(i for i, c in enumerate(text) if c > "\x7f")
    sample = " ".join(text[max(0, index - 15) : index + 15].split())
    note = (
        "not UTF-8, so read as Windows-1252, the older encoding of spreadsheets; see whether "
        f"{sample!r} is right, and save it as UTF-8"
    )
    return text, [note]
