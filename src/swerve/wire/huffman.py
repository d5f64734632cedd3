"""HPACK's Huffman code (RFC 7541, section 5.2 and appendix B): decoding only, as Swerve never sends it."""

from __future__ import annotations

# The symbols by the length of their codes in bits. The code is canonical: each code is the one before it plus one, with
# zeros appended where the length grows. One more code, 30 ones, is EOS, which must not occur.
_SYMBOLS_OF_LENGTH = {
    5: b"012aceiost",
    6: b" %-./3456789=A_bdfghlmnpru",
    7: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: b"&*,;XZ",
    10: b'!"()?',
    11: b"'+|",
    12: b"#>",
    13: b"\x00$@[]~",
    14: b"^}",
    15: b"<`{",
    19: b"\\\xc3\xd0",
    20: b"\x80\x82\x83\xa2\xb8\xc2\xe0\xe2",
    21: b"\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6",
    22: b"\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4\xc6\xe4\xe8\xe9",
    23: b"\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4\xb6\xb7\xbc\xbf\xc5"
    b"\xe7\xef",
    24: b"\x09\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed",
    25: b"\xc7\xcf\xea\xeb",
    26: b"\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff",
    27: b"\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe",
    28: b"\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f"
    b"\xdc\xf9",
    30: b"\x0a\x0d\x16",
}
_EOS = (1 << 31) - 1


def _symbols() -> dict[int, bytes]:
    """Each symbol by its code, which has a one in front to tell how long it is."""
    symbols = {}
    code, last_length = 0, 0
    for length, symbols_of_length in _SYMBOLS_OF_LENGTH.items():
        code <<= length - last_length
        last_length = length
        for symbol in symbols_of_length:
            symbols[1 << length | code] = bytes((symbol,))
            code += 1
    return symbols


_SYMBOLS = _symbols()
# The last symbol may be followed by the first bits of EOS, all ones, up to the end of the byte: at most 7.
_ENDS = frozenset((2 << ones) - 1 for ones in range(8))


# Between two bytes the decoder is in the middle of a code. Such a state is what each next byte leads to: another state,
# and the symbols that are complete by then. `_END` is in those where a string may end.
_State = dict[int, tuple["_State", bytes]]
_END = 256
# The states by the bits of the code so far, with a one in front. There are 256, and all their steps are 65,536; those
# that were needed up to now are here.
_STATES: dict[int, _State] = {}


def _state_after(bits: int) -> _State:
    state = _STATES.get(bits)
    if state is None:
        state = _STATES[bits] = {}
        if bits in _ENDS:
            state[_END] = state, b""
    return state


_START = _state_after(1)
# Strings by their code, for all connections: what clients of one kind say of themselves is the same.
_strings: dict[bytes, bytes] = {}
_MAX_STRINGS = 1024
_MAX_CODE = 64


def _learn(state: _State, byte: int) -> tuple[_State, bytes]:
    """Find out what `byte` leads to, and keep it."""
    (bits,) = [bits for bits, known in _STATES.items() if known is state]
    symbols = b""
    for shift in range(7, -1, -1):
        bits = bits << 1 | byte >> shift & 1
        symbol = _SYMBOLS.get(bits)
        if symbol is not None:
            bits, symbols = 1, symbols + symbol
        elif bits == _EOS:
            raise ValueError("a Huffman code has the symbol EOS")
    step = state[byte] = _state_after(bits), symbols
    return step


def decode(text: bytes) -> bytes:
    """The string whose code is `text`, at most 8/5 as long.

    Raises:
        ValueError: EOS is in it, or its padding is no padding (RFC 7541, section 5.2).
    """
    known = _strings.get(text)
    if known is not None:
        return known
    decoded = _decode(text)
    if len(text) <= _MAX_CODE:
        if len(_strings) >= _MAX_STRINGS:
            _strings.clear()
        _strings[text] = decoded
    return decoded


def _decode(text: bytes) -> bytes:
    state = _START
    parts: list[bytes] = []
    append = parts.append
    for byte in text:
        try:
            state, symbols = state[byte]
        except KeyError:
            state, symbols = _learn(state, byte)
        append(symbols)
    if _END not in state:
        raise ValueError("the padding of a Huffman code is longer than 7 bits, or not the start of EOS")
    return b"".join(parts)
