"""The largest numbers that an expression may state (format_spec/expressions.md, coder.md, records.md)."""

MAX_WIDTH = 16  # of a plane
MASK_WIDTH = 8  # of a mask's plane: a field has a bit for each of eight units
MAX_DECIMAL_WIDTH = 53  # of codes: integers of 52 bits and a sign
MAX_POWER = 22  # 10^22 is the last that is exact in binary64
MAX_SHIFT = 63
MAX_PRODUCT_SHIFT = 60  # of a product's sums: what is left of them stays a normal number
MAX_TABLES, MAX_CLASSES = 64, 64
MAX_ALL_TABLES = 256  # of all classes; a context is a byte
MAX_OCTAVE = 16
MAX_RECORD = 512  # bytes of a pattern that repeats
MAX_MEAN = 65536  # records whose fields have a mean: sums stay far below 2^63
MAX_ENTRIES, MAX_RUNS = 65536, 256  # of what makes classes of scales
MAX_SCALE_SHIFT = 31  # of a scale, whose units have at most 32 bits
CLASS_TABLES = 4  # classes that are an octave apart share a table
MAX_SIGN_TABLES = 32
MAX_CLASS = 255
MAX_FACTOR_CLASSES = 31  # of rows; with 64 factors, seven times as many tables and one more each
MAX_STEPS, MAX_STEP = 16, 63  # of a mean's logarithm
MAX_GROUPS = 8  # of a mean's factors, each of which counts twice as much as the one before
STATES = (1, 8)  # of a trellis
