"""HPACK's encoder (RFC 7541): header lists to blocks. What it shares with the decoder is in `hpack.py`."""

from __future__ import annotations

from swerve.wire.hpack import FIELD_OVERHEAD, FIRST_DYNAMIC, STATIC_TABLE, TABLE_SIZE, Field, HeaderListTooLarge
from swerve.wire.metadata import Headers, size_of


def _integer(value: int, prefix_bits: int, pattern: int) -> bytes:
    """Section 5.1: `value` behind the bits of `pattern`."""
    mask = (1 << prefix_bits) - 1
    if value < mask:
        return bytes((pattern | value,))
    encoded = bytearray((pattern | mask,))
    value -= mask
    while value >= 0x80:
        encoded.append(0x80 | value & 0x7F)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


# First bits of each kind of representation (sections 6.1 to 6.3), and how many are left for the index or the size.
_INDEXED, _INDEXED_BITS = 0x80, 7
_INCREMENTAL, _INCREMENTAL_BITS = 0x40, 6
_WITHOUT_INDEXING, _NEVER_INDEXED, _LITERAL_BITS = 0x00, 0x10, 4
_SIZE_UPDATE, _SIZE_UPDATE_BITS = 0x20, 5
_LENGTH_BITS = 7

_STATIC_NAMES = {name: index for index, (name, _) in reversed(tuple(enumerate(STATIC_TABLE, 1)))}
# Lengths that fit in one byte, which are those of nearly all strings.
_LENGTHS = tuple(_integer(length, _LENGTH_BITS, 0) for length in range(0x7F))
# Section 7.1.3: whoever sees the sizes of blocks, and sends headers over the same connection, could guess these.
_SENSITIVE = frozenset({b"authorization", b"cookie", b"set-cookie", b"proxy-authorization"})
_STATIC_INDEXED = {
    field: _integer(index, _INDEXED_BITS, _INDEXED)
    for index, field in enumerate(STATIC_TABLE, 1)
    if field[0] not in _SENSITIVE
}


def _string(text: bytes) -> bytes:
    return _integer(len(text), _LENGTH_BITS, 0) + text


# What each call of gRPC has.
_COMMON = frozenset({(b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-status", b"0")})

# What an encoder remembers: whole lists, names, and of each name values that came once. No value above `_MAX_SIZE` is,
# nor gets into the table.
_MAX_LISTS = 64
_MAX_NAMES = 64
_MAX_VALUES = 8
_MAX_SIZE = 256


class Encoder:
    """The header blocks for one peer, in their order.

    A field gets into the dynamic table when it comes a second time, or at once if all calls have it, and stays: when
    the table is full nothing more is added. Values that differ in each call stay literals. No string is Huffman coded:
    that costs more than it saves.
    """

    __slots__ = (
        "_added",
        "_blocks",
        "_capacity",
        "_indexed",
        "_max_list_size",
        "_once",
        "_places",
        "_room",
        "_starts",
        "_update",
    )

    def __init__(self, max_list_size: int) -> None:
        self._max_list_size = max_list_size
        self._capacity = TABLE_SIZE
        # The size update that the next block begins with.
        self._update = b""
        self._empty_table()

    def _empty_table(self) -> None:
        self._room = self._capacity
        # The dynamic table, oldest first, and of each name the newest field's place in it.
        self._added: list[Field] = []
        self._places: dict[bytes, int] = {}
        # What stands for each of its fields, and for whole lists of fields.
        self._indexed: dict[Field, bytes] = {}
        self._blocks: dict[Headers, bytes] = {}
        # By name: how its literals start, and values that came once.
        self._starts: dict[bytes, bytes] = {}
        self._once: dict[bytes, set[bytes]] = {}

    def set_max_table_size(self, size: int) -> None:
        """Take over the peer's SETTINGS_HEADER_TABLE_SIZE (RFC 7541, section 4.2)."""
        capacity = min(size, TABLE_SIZE)
        if capacity != self._capacity:
            self._capacity = capacity
            self.forget()

    def forget(self) -> None:
        """Go on with an empty table, as when a block is not sent after all."""
        # Size 0 stands for any lower one that the peer may have set meanwhile, and empties its table like this one.
        self._update = _integer(0, _SIZE_UPDATE_BITS, _SIZE_UPDATE)
        if self._capacity:
            self._update += _integer(self._capacity, _SIZE_UPDATE_BITS, _SIZE_UPDATE)
        self._empty_table()

    def literal(self, field: Field) -> bytes:
        """What may end any block to add `field` to its list: one that differs each time, for which this is quicker."""
        name, value = field
        start = self._starts.get(name) or self._learn(name)
        length = len(value)
        return start + (_LENGTHS[length] if length < 0x7F else _integer(length, _LENGTH_BITS, 0)) + value

    def encode(self, headers: Headers) -> bytes:
        """The block for `headers`. It has to be sent, and before the next one: the peer's table follows it.

        Raises:
            HeaderListTooLarge: the list is above `max_list_size`, and nothing is to be sent.
            TypeError, ValueError: it is none of pairs of bytes; nothing is to be sent.
        """
        block = self._blocks.get(headers)
        if block is not None:
            return block
        indexed, static, starts = self._indexed, _STATIC_INDEXED, self._starts
        parts: list[bytes] = []
        append = parts.append
        stable = True
        if self._update:
            append(self._update)
            self._update = b""
            stable = False
        try:
            for field in headers:
                part = indexed.get(field) or static.get(field)
                if part is not None:
                    append(part)
                    continue
                stable = False
                if self._comes_again(field) and self._add(field, parts):
                    continue
                name, value = field
                length = len(value)
                append(starts.get(name) or self._learn(name))
                append(_LENGTHS[length] if length < 0x7F else _integer(length, _LENGTH_BITS, 0))
                append(value)
            block = b"".join(parts)
        except Exception:
            # What came before is not sent either, and may be in the table already.
            self.forget()
            raise
        # What is abbreviated is short itself: no short block stands for a large list.
        if len(block) > _MAX_SIZE and size_of(headers) > self._max_list_size:
            self.forget()
            raise HeaderListTooLarge(f"a header list is above {self._max_list_size} bytes")
        if stable and len(block) <= _MAX_SIZE:
            if len(self._blocks) >= _MAX_LISTS:
                self._blocks.clear()
            self._blocks[headers] = block
        return block

    def _comes_again(self, field: Field) -> bool:
        name, value = field
        if len(value) > _MAX_SIZE or len(name) > _MAX_SIZE or name in _SENSITIVE:
            return False
        if field in _COMMON:
            return True
        once = self._once
        values = once.get(name)
        if values is None:
            if len(once) >= _MAX_NAMES:
                once.clear()
            once[name] = {value}
            return False
        if value in values:
            return True
        if len(values) >= _MAX_VALUES:
            values.clear()
        values.add(value)
        return False

    def _learn(self, name: bytes) -> bytes:
        start = self._literal_start(name)
        if len(name) <= _MAX_SIZE:
            if len(self._starts) >= _MAX_NAMES:
                self._starts.clear()
            self._starts[name] = start
        return start

    def _add(self, field: Field, parts: list[bytes]) -> bool:
        """Append a literal with incremental indexing (section 6.2.1), and follow it; False when the table is full."""
        name, value = field
        room = self._room - len(name) - len(value) - FIELD_OVERHEAD
        if room < 0:
            return False
        index = self._index_of_name(name)
        parts.append(_integer(index, _INCREMENTAL_BITS, _INCREMENTAL))
        if not index:
            parts.append(_string(name))
        parts.append(_string(value))
        self._room = room
        added, indexed = self._added, self._indexed
        self._places[name] = len(added)
        added.append(field)
        # The indices of all others have moved.
        for index, other in enumerate(reversed(added), FIRST_DYNAMIC):
            indexed[other] = _integer(index, _INDEXED_BITS, _INDEXED)
        for other_name in self._places:
            if other_name in self._starts:
                self._starts[other_name] = self._literal_start(other_name)
        self._blocks.clear()
        return True

    def _index_of_name(self, name: bytes) -> int:
        """The index of a field with that name, or 0."""
        index = _STATIC_NAMES.get(name, 0)
        if not index and name in self._places:
            index = len(STATIC_TABLE) + len(self._added) - self._places[name]
        return index

    def _literal_start(self, name: bytes) -> bytes:
        """What a literal that is not indexed begins with: its kind and its name (sections 6.2.2 and 6.2.3)."""
        index = self._index_of_name(name)
        start = _integer(index, _LITERAL_BITS, _NEVER_INDEXED if name in _SENSITIVE else _WITHOUT_INDEXING)
        return start if index else start + _string(name)
