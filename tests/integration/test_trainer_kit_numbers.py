"""The C kit's own reading and printing of numbers, held against Python's: no libc, no Wasm in between."""

import random
import struct
import subprocess
import sys
from decimal import Decimal

import numpy as np

from trainer_builds import ASSETS

PROGRAM = """
#include "propeller.h"
int main(void) {
    char line[128];
    while (fgets(line, sizeof line, stdin) != NULL) {
        double value = json_value(line, line + strcspn(line, "\\n"));
        uint64_t bits;
        memcpy(&bits, &value, sizeof bits);
        printf("%016" PRIx64 " ", bits);
        print_real(stdout, (real_t)value);
        putchar('\\n');
    }
}
"""
EDGES = ["0", "-0", "0.0", "1", "10", "99999999.9", "100000000", "0.00001", "0.000009999", "1e5", "1E-3"]
EDGES += ["9007199254740993", "18446744073709551615", "9999999999999999999", "0." + "0" * 26 + "1"]


def numerals(count):
    """Numbers as people and programs write them, and ties between two doubles."""
    draw = random.Random(5)  # noqa: S311 - a test repeats itself
    makers = [
        lambda: repr(draw.gauss(0, 1) * 10 ** draw.randint(-6, 9)),
        lambda: f"{draw.uniform(-20, 20):.{draw.randint(0, 19)}f}",
        lambda: str(draw.randrange(10 ** draw.randint(1, 19))),
        lambda: repr(float(np.float32(draw.gauss(0, 1)))),
        lambda: f"{Decimal(draw.randrange(1 << 52, 1 << 53) * 2 + 1) / 2 ** draw.randint(0, 12):f}",
        lambda: "0." + "0" * draw.randint(0, 12) + str(draw.randrange(10 ** draw.randint(1, 14))),
    ]
    return EDGES + [draw.choice(makers)() for _ in range(count)]


def test_numbers_are_read_to_the_last_bit_and_printed_so_that_they_come_back(tmp_path):
    """Twenty thousand numerals: the double that Python reads; what is printed of a float is that float."""
    source, program = tmp_path / "numbers.c", tmp_path / "numbers"
    source.write_text(PROGRAM)
    flags = ["-std=c17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-ffp-contract=off"]
    kit = ASSETS / "trainers" / "c"
    compiler = [sys.executable, "-m", "ziglang", "cc", *flags, f"-I{kit}", "-o", program, source, "-lm"]
    subprocess.run(compiler, check=True)
    given = numerals(20_000)
    said = subprocess.run(
        [program], input="\n".join(given) + "\n", capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for numeral, line in zip(given, said, strict=True):
        bits, printed = line.split()
        assert bits == struct.pack(">d", float(numeral)).hex(), numeral
        assert np.float32(float(printed)) == np.float32(float(numeral)), (numeral, printed)
