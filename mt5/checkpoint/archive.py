"""The members of a `.nemo`, a plain or gzipped tar, read in place. Nothing is ever extracted."""

import gzip
import io
import tempfile
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from mt5.checkpoint.file import File, Window
from mt5.errors import CheckpointError

BLOCK, EMPTY = 512, bytes(512)
AHEAD = 64 << 10  # bytes that are read at once where headers may stand close together
MAX_MEMBERS = 5_000
MAX_HEADER = 64 << 10  # bytes of an extended header: a name, a size, some times
MAX_HEADERS = 1 << 20  # bytes of all of them
MAX_RATIO = 20
SAFE_SIZE = 8 << 20  # so much may unpack from anything
REGULAR, FOLDER, EXTENDED, GLOBAL_EXTENDED, LONG_NAME = (b"0", b"\0", b"7"), b"5", b"x", b"g", b"L"


class Archive:
    """The files of a tar by name, without a leading `./`, or those of a folder that one was unpacked to."""

    def __init__(self, path: Path) -> None:
        """Index the members. CheckpointError when it is no tar, holds links or devices, or is cut short."""
        self.path = path
        self.members: dict[str, Window] = {}
        if path.is_dir():
            files = [*islice(path.glob("*"), MAX_MEMBERS), *islice(path.glob("*/*.ckpt"), MAX_MEMBERS)]
            for file in sorted(files):
                if file.is_file():
                    opened = File.open(file)
                    self.members[str(file.relative_to(path))] = Window(opened, 0, opened.size)
            return
        self.file = _plain(path)
        for name, start, size in self._index():
            name = name.removeprefix("./")
            if name.startswith("/") or ".." in name.split("/"):
                raise CheckpointError(
                    f"{path}: member {name!r} points outside the archive; NeMo writes none."
                )
            if name in self.members:
                raise CheckpointError(f"{path}: member {name!r} occurs twice. Write the archive again.")
            self.members[name] = Window(self.file, start, size)

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a member of at most `limit` bytes."""
        member = self.members[name]
        if member.size > limit:
            raise CheckpointError(
                f"{self.path}: {name} has {member.size:,} bytes, more than the {limit:,} expected of it."
            )
        return member.file.read(member.size, member.start)

    def _index(self) -> Iterator[tuple[str, int, int]]:
        """Name, first byte and size of every regular file (POSIX.1-2001 pax, with GNU's long names)."""
        at, number, headers, extended = 0, 0, 0, dict[str, str]()
        blocks = io.BufferedReader(Window(self.file, 0, self.file.size), AHEAD)
        while at + BLOCK <= self.file.size:
            blocks.seek(at)
            header = blocks.read(BLOCK)
            if len(header) < BLOCK:
                raise CheckpointError(f"{self.path} became shorter while it was read. Load it again.")
            if header == EMPTY:
                return
            kind, size, name = header[156:157], self._size(header, at), _text(header[:100])
            if (
                header[257:262] == b"ustar"
                and header[257:263] != b"ustar "
                and header[345]
                and kind in REGULAR
            ):
                name = f"{_text(header[345:500])}/{name}"
            size = int(written) if (written := extended.get("size", "")[:20]).isdecimal() else size
            start, at = at + BLOCK, at + BLOCK + -(-size // BLOCK) * BLOCK
            if start + size > self.file.size:
                raise CheckpointError(f"{self.path}: {name} is cut short. Download the archive again.")
            number += 1
            if number > MAX_MEMBERS:
                raise CheckpointError(
                    f"{self.path}: more than {MAX_MEMBERS:,} members; this is no NeMo checkpoint."
                )
            if kind in (EXTENDED, GLOBAL_EXTENDED, LONG_NAME):
                headers += size
                if size > MAX_HEADER or headers > MAX_HEADERS:
                    raise CheckpointError(
                        f"{self.path}: extended headers of {headers:,} bytes; NeMo writes none such."
                    )
                data = self.file.read(size, start)
                extended |= {"path": _text(data)} if kind == LONG_NAME else self._records(data)
                continue
            name, sparse = extended.get("path", name), any(key.startswith("GNU.sparse") for key in extended)
            extended = {}
            if sparse or kind not in (*REGULAR, FOLDER):
                raise CheckpointError(
                    f"{self.path}: member {name!r} is a link, a device or sparse; NeMo writes none."
                )
            if kind in REGULAR and not name.endswith("/"):
                yield name, start, size

    def _size(self, header: bytes, at: int) -> int:
        """The size that a header gives. CheckpointError unless its checksum is right."""
        field = header[124:136]
        try:
            total = int(header[148:156].strip(b" \0") or b"0", 8)
            # above 8 GiB GNU tar writes the number itself instead of octal digits
            size = int.from_bytes(field[4:]) if field[0] == 0x80 else int(field.strip(b" \0") or b"0", 8)
        except ValueError:
            total, size = -1, 0
        # the lower half of Adler-32 is the sum of all bytes and 1, in a tenth of the time that `sum` takes
        found = zlib.adler32(header[:148] + 8 * b" " + header[156:]) & 0xFFFF
        if not 0 <= total <= 255 * BLOCK or (total + 1) % 65_521 != found or size < 0:
            what = "is no tar archive" if at == 0 else f"is damaged at byte {at:,}"
            raise CheckpointError(f"{self.path} {what}. Is it a .nemo file? Download it again.")
        return size

    def _records(self, data: bytes) -> dict[str, str]:
        """The records of a pax header: `length key=value\\n` each, where length counts the whole record."""
        records, at = {}, 0
        while at < len(data):
            length, space, _ = data[at : at + 12].partition(b" ")
            end = at + int(length) if length.isdigit() and space else 0
            key, equals, value = data[at + len(length) + 1 : max(end - 1, 0)].partition(b"=")
            if end <= at or end > len(data) or not equals:
                raise CheckpointError(
                    f"{self.path}: an extended header is damaged. Download the archive again."
                )
            records[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
            at = end
        return records


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")


def _plain(path: Path) -> File:
    """The archive itself; a gzipped one is unpacked into a nameless temporary file."""
    file = File.open(path)
    if file.read(min(2, file.size), 0) != b"\x1f\x8b":
        return file
    limit = SAFE_SIZE + MAX_RATIO * file.size
    with tempfile.TemporaryFile() as plain:
        try:
            with gzip.open(Window(file, 0, file.size)) as packed:
                while block := packed.read(1 << 20):
                    plain.write(block)
                    if plain.tell() > limit:
                        raise CheckpointError(
                            f"{path} unpacks to more than {limit:,} bytes; weights never do."
                        )
        except (EOFError, zlib.error, gzip.BadGzipFile) as fault:
            raise CheckpointError(
                f"{path}: the gzip stream is damaged ({fault}). Download it again."
            ) from fault
        except OSError as fault:
            raise CheckpointError(
                f"{path} could not be unpacked: {fault.strerror}. Set TMPDIR to a folder with more room."
            ) from fault
        return File.of(plain, path)
