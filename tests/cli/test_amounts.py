"""Values of -Z and -r, as pg_basebackup reads them."""

import pytest

from pgbackup.cli.amounts import default_workers, parse_compression, parse_rate
from pgbackup.errors import UsageError
from pgbackup.stream.compress import MAX_WORKERS, ZstdSettings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", None),
        ("zstd", ZstdSettings(3, default_workers())),
        ("zstd:19", ZstdSettings(19, default_workers())),
        ("zstd:level=1", ZstdSettings(1, default_workers())),
        ("zstd:workers=1", ZstdSettings(3, 1)),
        ("zstd:level=7,workers=2", ZstdSettings(7, 2)),
        ("zstd:workers=2,level=7", ZstdSettings(7, 2)),
    ],
)
def test_a_compression_is_read(text: str, expected: ZstdSettings | None) -> None:
    assert parse_compression(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", 'unrecognized compression algorithm: ""'),
        ("ZSTD", 'unrecognized compression algorithm: "ZSTD"'),
        ("gzip", 'unrecognized compression algorithm: "gzip"'),
        ("none+", 'unrecognized compression algorithm: "none+"'),
        ("none:", '"none" does not accept options'),
        ("none:1", '"none" does not accept options'),
        ("zstd:", "found empty string where a compression option was expected"),
        ("zstd:,", "found empty string where a compression option was expected"),
        ("zstd:level=3,", "found empty string where a compression option was expected"),
        ("zstd:=3", "found empty string where a compression option was expected"),
        ("zstd:long", 'unrecognized compression option: "long"'),
        ("zstd:speed=1", 'unrecognized compression option: "speed"'),
        ("zstd:-5", 'unrecognized compression option: "-5"'),
        ("zstd:level", 'option "level" requires a value'),
        ("zstd:level=", 'option "level" requires a value'),
        ("zstd:level=high", 'option "level" must be an integer'),
        ("zstd:level=-1", 'option "level" must be an integer'),
        ("zstd:level=²", 'option "level" must be an integer'),
        ("zstd:level=3=4", 'option "level" must be an integer'),
        ("zstd:²", 'unrecognized compression option: "²"'),
        ("zstd:٣", 'value for compression option "level" must be an integer'),
        ("zstd:level=0", 'option "level" must be between 1 and 19'),
        ("zstd:20", 'option "level" must be between 1 and 19'),
        ("zstd:level=" + "9" * 5000, 'option "level" must be between 1 and 19'),
        ("zstd:level=" + "1".zfill(20) + "999", 'option "level" must be between 1 and 19'),
        ("zstd:workers=0", f'option "workers" must be between 1 and {MAX_WORKERS}'),
        ("zstd:workers=1000000", f'option "workers" must be between 1 and {MAX_WORKERS}'),
        ("zstd:workers", 'option "workers" requires a value'),
    ],
)
def test_a_compression_that_makes_no_sense_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_compression(text)
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("text", "kilobytes"),
    [("32", 32), ("32k", 32), ("1M", 1024), ("1024M", 1048576), ("1048576", 1048576)],
)
def test_a_rate_is_read(text: str, kilobytes: int) -> None:
    assert parse_rate(text) == kilobytes


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((text, "is not a valid value") for text in ("", "M", "fast", "-1", "1.5M", "32kk", "²")),
        *((text, "is not a valid value") for text in ("32K", "1G", "0x40", " 32", "32 ", "32Mk")),
        *((text, "is out of range") for text in ("0", "31", "31k", "1025M", "1048577", "9" * 5000)),
    ],
)
def test_a_rate_that_makes_no_sense_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_rate(text)
