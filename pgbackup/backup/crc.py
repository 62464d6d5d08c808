"""Join CRC-32C values of neighbouring pieces, so that threads can share one object.

CRC-32C(a + b) follows from both values and the length of b alone: appending n zero bytes to a
multiplies its value by x^8n modulo the polynomial.
"""

from functools import cache
from typing import Final

POLYNOMIAL: Final = 0x82F63B78
"""Castagnoli's, bits reversed: the highest power is the lowest bit."""

_ONE: Final = 1 << 31
_X: Final = 1 << 30


def join_crc32c(first: int, second: int, second_length: int) -> int:
    """The CRC-32C of two pieces put together.

    second_length: bytes of the second piece.
    """
    return _multiply(_power_of_x(8 * second_length), first) ^ second


def _multiply(left: int, right: int) -> int:
    product = 0
    while left:
        if left & _ONE:
            product ^= right
        left = left << 1 & 0xFFFFFFFF
        right = right >> 1 ^ (POLYNOMIAL if right & 1 else 0)
    return product


def _power_of_x(exponent: int) -> int:
    result = _ONE
    for number in range(exponent.bit_length()):
        if exponent >> number & 1:
            result = _multiply(result, _square_of_x(number))
    return result


@cache
def _square_of_x(number: int) -> int:
    """X squared so many times; there are no more of them than bits in a length."""
    if not number:
        return _X
    root = _square_of_x(number - 1)
    return _multiply(root, root)
