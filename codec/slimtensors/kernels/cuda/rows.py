"""The work list: what the CPU says to the GPU about each item of work, as numbers of 32 bits.

Places in a segment count units of 1, 2 or 4 bytes, as the array they index; `segment8`, `segment16` and `segment32` are
one buffer. Whoever writes a work list has checked it: kernels trust its numbers, not what lies in the segment.
"""

WARP, STATE_MIN, SLOTS = 32, 1 << 16, 4096
ALL = 0xFFFFFFFF
GROUP, STEPS = 128, 4

THREADS = 256  # of a thread block
WARPS = THREADS // WARP
CODER_THREADS = 128  # of one that decodes: a chunk of the usual size has four of the coder's blocks, one for each warp
CODER_BLOCKS = CODER_THREADS // WARP  # of an item, at most

# An item of `decode`: up to CODER_BLOCKS blocks of one chunk. Its words:
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

# An item of `plane`: up to CODER_BLOCKS blocks of a coded plane. Its words up to ESCAPES as those of `decode`, but for:
MAP = 4  # the first of the chunk's numbers in `maps`: where the entries of each context's table begin
CONTEXT = 5  # of the chunk's first unit, in `contexts`; NOWHERE if it has none
SHIFT, WIDTH = 12, 13  # of the plane, in the unit before it is rotated
BYPASS, OCTAVE, TABLE_MASK = 14, 15, 16  # whether it is in mode bypass; fields' move for each four classes; of contexts
ABOVE = 17  # whether another plane has been there before
PLANE_ITEM = 18
ABSENT = 1 << 31  # in `maps`, marks a table that no unit selects
STARTS = 257  # of a table in `starts`: where its symbols' slots start, and its precision

# An item of `fields`: units of a raw or constant plane. The first three words as those of `plain`.
UNIT_AT = 3  # the item's first unit in the chunk's body
GROUPS_ALL = 4  # of the chunk's body
FIELD_SHIFT, FIELD_WIDTH, FIELD_ABOVE = 5, 6, 7  # the width is 0 if the plane is constant
VALUE = 8  # of a constant plane; else its first byte in segment8
FIELDS_ITEM = 9

# An item of `contexts` and of `finish`. The first three words as those of `plain`.
BASE_AT, BASE_HIGH = 3, 4  # of the base's units in `bases`, 64 bits
ROW_AT, COLUMN_AT = 5, 6  # the first unit's, in the tensor
LENGTH = 7  # of a row
ROWS_FROM, COLUMNS_FROM = 8, 9  # classes of rows and columns, in `sides`; NOWHERE if there are none
FIRST, TABLES, CONTEXT_SHIFT = 10, 11, 12  # of a base context
MEAN, MEAN_RANK, STRIDE = 10, 11, 12  # of a class lifted by a mean: factors in `factors`, from one to the next
LIFTS, LIFT_COUNT = 13, 14  # the steps that lift it, in `factors`
MOST_CLASS = 15  # that a context is cut to
ROTATED, ADDED, ORDERED = 13, 14, 15  # to finish with: rotation; whether there is a base; whether it is of floats
WIDE_ITEM = 16
SHARES, SHARE_UNITS = 8, 1 << 13  # thread blocks of an item, and what each sees of its units, which are 2^16 at most

# An item of `signs`: as `contexts`, but that BASE_AT is the place of the units, which have their other fields; FIRST
# and TABLES are the sign context's. Of `flip`: up to BASE_AT, which is the place in `steers`.
FIELD_FROM, OCTAVE_BITS = 8, 9  # the bits below the last field; the logarithm of its octave

# An item of `pick` and `scaled`: as the former, but the codes' place is at BASE_AT, and the run's number and length at
# ROW_AT and LENGTH, with the first unit's place in its run at COLUMN_AT.
PALETTE, ENTRIES = 10, 11  # its first entry in `palettes`, or the first run's, and how many it has
SCALES, EACH_RUN = 12, 13  # the first run's, in `scales`; entries from one run's palette to the next
OFFSETS = 14  # the first run's, in `scales`, of `shifted`, which is as `scaled`

# An item of `parities` and of `levels`: as the former, but for what follows the length of a row.
STEP_ROWS, STEP_COLUMNS = 8, 9  # what the step is times, in `scales`: the first row's, the first column's; or NOWHERE
ZERO, GRID_STEP, TWICE = 10, 11, 12  # the code of level 0; the step, bits of F32; whether there is a trellis
ENDS_AT, SEGMENT_AT = 13, 14  # the chunk's first in `ends`; the item's first segment
SEGMENT_UNITS = 1 << 13  # of a segment, which a warp sees by itself

# An item of `move`: as `contexts`, up to LENGTH; it goes to a place in `moved`.
LEFT, RIGHT = 8, 9  # the first factor of the tensor's first row, and of its first column, in `factors`
RANK, OVER = 10, 11  # factors of a row; the power of two that sums are divided by
NARROW_SUMS = 12  # whether sums are of 32 bits

# An item of `sums`: as `move`; it goes to a place in `out`.
NUMBERS_AT, NUMBERS_HIGH = 13, 14  # in `numbers`, 64 bits
HAS_BASE = 15  # whether they are added to a base, else to a product

# An item of `decimals`: as `pick`, up to the codes' place.
DIVISOR, DIVISOR_HIGH = 5, 6  # a power of five, times the power of two that makes it a number of 53 bits
PLACES = 7  # of bits by which the quotient is too large

# An item of `scatter`: up to eight times 1024 units of a body. The first two words as those of `plain`.
MASK_WORDS = 2  # how many
VALUES_AT, VALUES_HIGH = 3, 4  # the chunk's first value in `values`, 64 bits
LAST_VALUE = 5  # of the chunk's, zeros that fill up a group among them; counted from its first
MASK_AT, RANKS_AT = 6, 7  # the item's first word and first rank
FILLED_FROM, FILLED_TO = 8, 9  # values that have to be zero
OVER_OTHERS = 10  # whether units without a value stay as they are, else they are 0
SCATTER_ITEM = 11
RANKED_UNITS = 1024  # of a rank

# An item of `digest`: up to eight pieces of 16 KiB of decoded bytes.
DATA, DATA_HIGH, DATA_PIECES, RESULT = 0, 1, 2, 3  # in numbers of 64 bits; how many; the first result's place
DIGEST_ITEM = 4
PIECE_WORDS = 2048

# What a kernel reports in an item's status.
BAD_END, BAD_ESCAPE, BAD_FIELD = 1, 2, 4
