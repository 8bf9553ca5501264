"""The work list: what the CPU says to the GPU about each item of work, as numbers of 32 bits.

Places in a segment count units of 1, 2 or 4 bytes, as the array they index; `segment8`, `segment16` and `segment32` are
one buffer. Whoever writes a work list has checked it: kernels trust its numbers, not what lies in the segment.
"""

WARP, STATE_MIN, SLOTS = 32, 1 << 16, 4096
ALL = 0xFFFFFFFF
GROUP, STEPS = 128, 4

THREADS = 256  # of each launch
WARPS = THREADS // WARP  # blocks of the coder that an item has at most

# An item of `decode`: up to eight blocks of one chunk. Its words:
OUT, OUT_HIGH = 0, 1  # the chunk's first unit in `out`, 64 bits; all else counts from there
BLOCKS = 2  # of the item
ROW = 3  # the first block's row
TABLE = 4  # the first of 256 numbers in `tables`: where each symbol's slots start
PRECISION, BASE = 5, 6  # of the coded plane
STATES = 7  # the first block's states, in segment32
LAST = 8  # behind the plane's last word, in segment16; 32 more can be read
POSITIONS, FIELDS, ESCAPES = 9, 10, 11  # the escapes of the item's blocks: in segment32, in segment16, how many
KEEP, FILL = 12, 13  # the rest of a unit is `pieces & KEEP | FILL`
PIECES = 14  # for each of four pieces, its first byte in segment8
MOST_PIECES = 4
ITEM = 18

# A block's row: its first group, how many it has, its first word in segment16, and behind its last.
GROUP_AT, GROUPS, WORD, END = 0, 1, 2, 3
BLOCK_ROW = 4

# An item of `plain`: units that are copied, or a sequence of numbers.
TO, TO_HIGH, UNITS, FROM = 0, 1, 2, 3  # in `out`, 64 bits; how many; in the segment's units
START, STEP = 4, 6  # where FROM is NOWHERE: two words each, the lower first
NOWHERE = 0xFFFFFFFF
PLAIN_ITEM = 8
PLAIN_UNITS = 1 << 14  # of an item

# An item of `digest`: up to eight pieces of 16 KiB of decoded bytes.
DATA, DATA_HIGH, DATA_PIECES, RESULT = 0, 1, 2, 3  # in numbers of 64 bits; how many; the first result's place
DIGEST_ITEM = 4
PIECE_WORDS = 2048

# What a kernel reports in an item's status.
BAD_END, BAD_ESCAPE = 1, 2
