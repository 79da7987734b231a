"""The directory of a zip, checked before anything that it names is read (APPNOTE 6.3.9, §4.3)."""

from mt5.checkpoint.file import Window
from mt5.errors import CheckpointError

MAX_DIRECTORY = 4 << 20
MAX_RECORDS = 20_000
STORED = 0
END = 22  # bytes of the directory's end, before its comment


def directory(window: Window, label: str) -> dict[str, tuple[int, int]]:
    """Where the records lie in the file: name -> first byte, size.

    CheckpointError when the zip is damaged, names too many records, or holds one that is compressed.
    """
    file, start, size = window.file, window.start, window.size
    tail = file.read(min(size, END + 65_535), start + max(0, size - END - 65_535))
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) - end < END:
        raise CheckpointError(f"{label} is no torch file, or is cut short. Download it again.")
    count, length, first = (_number(tail, end + a, end + b) for a, b in ((10, 12), (12, 16), (16, 20)))
    locator = tail[end - 20 : end] if end >= 20 else b""
    if locator.startswith(b"PK\6\7"):
        place = _number(locator, 8, 16)
        if place + 56 > size:
            raise CheckpointError(f"{label}: the zip's directory is damaged. Download it again.")
        large = file.read(56, start + place)
        count, length, first = (_number(large, a, a + 8) for a in (32, 40, 48))
    if length > MAX_DIRECTORY or count > MAX_RECORDS or first + length > size:
        raise CheckpointError(
            f"{label}: the zip's directory names {count:,} records; it is damaged, or no weights."
        )
    entries, at, records = file.read(length, start + first), 0, {}
    for _ in range(count):
        entry = entries[at : at + 46]
        if len(entry) < 46 or not entry.startswith(b"PK\1\2"):
            raise CheckpointError(f"{label}: the zip's directory is damaged. Download it again.")
        method, packed, full = (_number(entry, a, b) for a, b in ((10, 12), (20, 24), (24, 28)))
        widths = [_number(entry, a, a + 2) for a in (28, 30, 32)]
        name = entries[at + 46 : at + 46 + widths[0]].decode("utf-8", "replace")
        extra = entries[at + 46 + widths[0] : at + 46 + widths[0] + widths[1]]
        full, packed, offset = _wide(extra, full, packed, _number(entry, 42, 46))
        if method != STORED or packed != full:
            raise CheckpointError(
                f"{label}: {name} is compressed; torch never writes that. Save it again with torch."
            )
        if offset + 30 > size:
            raise CheckpointError(f"{label}: {name} lies outside the file. Download it again.")
        local = file.read(30, start + offset)
        data = offset + 30 + _number(local, 26, 28) + _number(local, 28, 30)
        if not local.startswith(b"PK\3\4") or data + full > size or name in records:
            raise CheckpointError(f"{label}: {name} is damaged or cut short. Download it again.")
        records[name] = (start + data, full)
        at += 46 + sum(widths)
    return records


def _number(data: bytes, first: int, last: int) -> int:
    return int.from_bytes(data[first:last], "little")


def _wide(extra: bytes, *numbers: int) -> list[int]:
    """Numbers of a directory's entry, those of all ones taken from the zip64 field."""
    field, at = b"", 0
    while at + 4 <= len(extra):
        kind, width = _number(extra, at, at + 2), _number(extra, at + 2, at + 4)
        if kind == 1:
            field = extra[at + 4 : at + 4 + width]
        at += 4 + width
    result = []
    for number in numbers:
        if number == 0xFFFFFFFF and len(field) >= 8:
            number, field = _number(field, 0, 8), field[8:]
        result.append(number)
    return result
