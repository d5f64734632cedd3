"""HPACK, the compression of HTTP/2's header lists (RFC 7541): what both directions share, and the decoder.

It is made for lists that come again and again. A call's headers are those of the call before, but for a field or two.
So both directions remember whole blocks for as long as the dynamic table stays as it is, and the encoder
(`hpack_encoder.py`), who decides when it changes, only ever adds to it.
"""

from __future__ import annotations

from swerve.wire import huffman
from swerve.wire.metadata import Headers

Field = tuple[bytes, bytes]

# RFC 7541, section 4.1: an entry of the table, and RFC 9113, section 6.5.2: a field of a list.
FIELD_OVERHEAD = 32
# RFC 9113, section 6.5.2: the table's size until SETTINGS say otherwise. The encoder never uses more.
TABLE_SIZE = 4096
# RFC 7541, section 5.1 asks for a limit, in value and in bytes; no length or index comes near this one.
_MAX_INTEGER = (1 << 31) - 1
_MAX_INTEGER_BITS = 35

# RFC 7541, appendix A.
STATIC_TABLE: tuple[Field, ...] = (
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    *((b":status", code) for code in b"200 204 206 304 400 404 500".split()),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    *(
        (name, b"")
        for name in (
            b"accept-language accept-ranges accept access-control-allow-origin age allow authorization cache-control "
            b"content-disposition content-encoding content-language content-length content-location content-range "
            b"content-type cookie date etag expect expires from host if-match if-modified-since if-none-match if-range "
            b"if-unmodified-since last-modified link location max-forwards proxy-authenticate proxy-authorization "
            b"range referer refresh retry-after server set-cookie strict-transport-security transfer-encoding "
            b"user-agent vary via www-authenticate"
        ).split()
    ),
)
FIRST_DYNAMIC = len(STATIC_TABLE) + 1


class HpackError(Exception):
    """A block that cannot be decoded: the connection is lost (COMPRESSION_ERROR, RFC 7541, section 2.3.3)."""


class HeaderListTooLarge(Exception):
    """A list above the receiver's limit. The block was not read to its end, so the connection is lost too."""


# The decoder keeps each field with its size.
_Entry = tuple[Field, int]


def _entry(field: Field) -> _Entry:
    return field, len(field[0]) + len(field[1]) + FIELD_OVERHEAD


# What a decoder remembers: bytes of one block and its list, and of all of them. Python takes some five times as many
# for the smallest fields.
_MAX_KNOWN = 4096
_MAX_ALL_KNOWN = 32 * 1024

# The indexed fields that a block starts with, what they decode to, and their size.
_Start = tuple[bytes, list[Field], int]
_NO_START: _Start = (b"", [], 0)

# Index 0 is never looked up.
_STATIC_ENTRIES = [_entry(field) for field in ((b"", b""), *STATIC_TABLE)]


class Decoder:
    """The header blocks that one peer sends, in their order.

    `max_table_size` is what SETTINGS_HEADER_TABLE_SIZE tells the peer. The table has the protocol's 4096 bytes until
    the peer changes that (RFC 7541, section 4.2).
    """

    __slots__ = (
        "_capacity",
        "_known_size",
        "_last_literal",
        "_max_list_size",
        "_max_table_size",
        "_start",
        "_table",
        "_used",
        "known_blocks",
    )

    def __init__(self, max_list_size: int, max_table_size: int = TABLE_SIZE) -> None:
        self._max_list_size = max_list_size
        self._max_table_size = max_table_size
        self._capacity = TABLE_SIZE
        self._used = 0
        # By index: the static table, then the dynamic one from its newest entry to its oldest.
        self._table = _STATIC_ENTRIES.copy()
        # Blocks that mean the same until the table changes.
        self.known_blocks: dict[bytes, Headers] = {}
        self._known_size = 0
        self._last_literal = b""
        self._start = _NO_START

    def decode(self, block: bytes) -> Headers:
        """The header list of a block: the same object for the same block, where the memory has it.

        Raises:
            HpackError: the block breaks a rule of RFC 7541.
            HeaderListTooLarge: the list, or one of its strings as it was sent, is above `max_list_size`.
        """
        headers = self.known_blocks.get(block)
        if headers is not None:
            return headers
        try:
            return self._decode(block)
        except IndexError:
            raise HpackError("a block refers to no entry of the table, or is cut off") from None

    def _decode(self, block: bytes) -> Headers:
        table, max_list_size = self._table, self._max_list_size
        # Calls that differ do so at the end of their blocks mostly.
        start, fields, list_size = self._start
        if block.startswith(start):
            fields, position = fields.copy(), len(start)
        else:
            fields, position, list_size = [], 0, 0
        append = fields.append
        end, known, first_literal, size_updates, inserted = len(block), position, -1, 0, False
        while position < end:
            first = block[position]
            position += 1
            if first > 0x80:
                # Section 6.1: an indexed field.
                index = first & 0x7F
                if index == 0x7F:
                    index, position = _read_integer(block, position, 0x7F)
                field, size = table[index]
            elif first >= 0x40 or first < 0x20:
                # Section 6.2: a literal, with incremental indexing (01), without (0000), or never indexed (0001).
                if first == 0x80:
                    raise HpackError("a block refers to index 0")
                if first >= 0x40:
                    mask, inserted = 0x3F, True
                else:
                    mask = 0x0F
                    if first_literal < 0:
                        first_literal, count, start_size = position - 1, len(fields), list_size
                index = first & mask
                if index == mask:
                    index, position = _read_integer(block, position, mask)
                # A slice that is cut off leaves the position behind the end.
                if index:
                    name = table[index][0][0]
                else:
                    length = block[position]
                    position += 1
                    if length < 0x7F:
                        name = block[position : position + length]
                        position += length
                    else:
                        name, position = self._read_string(block, position, length)
                length = block[position]
                position += 1
                if length < 0x7F:
                    value = block[position : position + length]
                    position += length
                else:
                    value, position = self._read_string(block, position, length)
                field = name, value
                size = len(name) + len(value) + FIELD_OVERHEAD
                if first >= 0x40:
                    self._insert((field, size))
            else:
                # Sections 4.2 and 6.3: an encoder needs two of them at most, the lowest size since and the last one.
                size_updates += 1
                if fields or size_updates > 2:
                    raise HpackError("a block changes the table's size after its start, or more than twice")
                index = first & 0x1F
                if index == 0x1F:
                    index, position = _read_integer(block, position, 0x1F)
                self._resize(index)
                continue
            list_size += size
            if list_size > max_list_size:
                raise HeaderListTooLarge(f"a header list is above {max_list_size} bytes")
            append(field)
        if position != end:
            raise HpackError("a block is cut off")
        headers = tuple(fields)
        size = end + list_size
        if inserted or size_updates or size > _MAX_KNOWN:
            return headers
        # Literals stand mostly for what differs from call to call. Where they do not, as tokens, the block comes twice.
        if first_literal < 0 or block == self._last_literal:
            self._known_size += size
            if self._known_size > _MAX_ALL_KNOWN:
                self.known_blocks.clear()
                self._known_size = size
            self.known_blocks[block] = headers
        else:
            self._last_literal = block
            if first_literal != known:
                self._start = block[:first_literal], fields[:count], start_size
        return headers

    def _forget_blocks(self) -> None:
        self.known_blocks.clear()
        self._known_size = 0
        self._start = _NO_START

    def _insert(self, entry: _Entry) -> None:
        """Section 4.4: what is larger than the table empties it."""
        self._forget_blocks()
        size, capacity, table = entry[1], self._capacity, self._table
        if size > capacity:
            del table[FIRST_DYNAMIC:]
            self._used = 0
            return
        used = self._used + size
        while used > capacity:
            used -= table.pop()[1]
        table.insert(FIRST_DYNAMIC, entry)
        self._used = used

    def _resize(self, capacity: int) -> None:
        if capacity > self._max_table_size:
            raise HpackError("a block makes the table larger than allowed")
        self._forget_blocks()
        self._capacity = capacity
        table, used = self._table, self._used
        while used > capacity:
            used -= table.pop()[1]
        self._used = used

    def _read_string(self, block: bytes, position: int, first: int) -> tuple[bytes, int]:
        """Section 5.2: the string whose length begins with `first`, and the position behind it."""
        length = first & 0x7F
        if length == 0x7F:
            length, position = _read_integer(block, position, 0x7F)
            if length > self._max_list_size:
                raise HeaderListTooLarge(f"a string is above {self._max_list_size} bytes")
        end = position + length
        text = block[position:end]
        if first < 0x80:
            return text, end
        try:
            return huffman.decode(text), end
        except ValueError as error:
            raise HpackError(str(error)) from None


def _read_integer(block: bytes, position: int, value: int) -> tuple[int, int]:
    """Section 5.1: the integer whose prefix was full, with that `value`, and the position behind it."""
    for shift in range(0, _MAX_INTEGER_BITS, 7):
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            if value > _MAX_INTEGER:
                break
            return value, position
    raise HpackError("a block has too large an integer")
