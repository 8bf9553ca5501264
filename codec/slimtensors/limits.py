"""Every limit, with its reason. Those of the format stand in format_spec/container.md, section 9, and checkpoint.md."""

KIBIBYTE, MEBIBYTE = 1 << 10, 1 << 20

# ---- of the format: raising one makes files that older readers refuse

MAX_HEADER_BYTES = 16 * MEBIBYTE  # parsed JSON takes up to 50 times its length in memory
MAX_TENSORS = 1 << 17  # ten times the largest shard known
MAX_EXPRESSIONS = 1 << 16
MAX_SIDES = 6  # a palette, and two factors each for scales and offsets
MAX_INDEX_BYTES = MAX_TENSORS * (40 * (MAX_SIDES + 1) + 32) + 40  # records of the most streams, an image's among them
MAX_PLANES = 16
MAX_PALETTE = 1 << 16  # entries: what codes of 16 bits can name
MAX_RANK = 64  # of a matmul that moves a base
MAX_SCALE_BITS = 32  # of a unit of another tensor that selects tables
MIN_RUN = 8  # units that share a scale; fewer would make the scales as large as the tensor
MAX_DIMENSIONS = 16
MAX_ELEMENTS = 1 << 48  # sizes in bytes stay below 2^53
MAX_NAME_BYTES = 512
MAX_HINT_BYTES = 512  # as of a name: one is told of every base that follows
MAX_METADATA_BYTES = 8 * MEBIBYTE
MAX_CHUNK_BYTES = 16 * MEBIBYTE
MAX_RECORD_CHUNK_BYTES = 4 * MEBIBYTE  # a chunk of records: fields of one bit take eight times their room
EXPANSION = 1024  # decoded bytes for each stored byte
EXPANSION_SLACK = 256 * MEBIBYTE
ESCAPE_SHARE = 16  # at most one unit in so many may be an escape
MAX_OBJECTS_BYTES = 16 * MEBIBYTE  # of what is no tensor in a file of a checkpoint: JSON, as the header is
MAX_MANIFEST_BYTES = 256 * MEBIBYTE  # 3400 tensors on 1024 ranks take 78 MB
MAX_MANIFEST_TOKENS = 1 << 26  # commas, colons and brackets: parsed, it takes up to 50 times their number in memory

# ---- of this implementation: free to change

CHUNK_BYTES = MEBIBYTE  # decoded; a slice reads at least one chunk, a thread works on one at a time
STEERED_CHUNK_BYTES = 2 * MEBIBYTE  # of planes with several tables, which each chunk holds
PACK_TENSOR_BYTES = 64 * KIBIBYTE  # smaller tensors share a chunk
PACK_BYTES = 256 * KIBIBYTE  # so reading one bias never decodes more than this
BASE_BYTES = 128  # what naming a base takes of the header
MIN_BASED_BYTES = 512  # smaller tensors are not worth the naming
# Decoded packs that are kept: by a walk, each for its next tensor, which may be a tie far on; and of all that a file's
# bases lie in, since tensors may be in another order at each level.
KEPT_PACKS = 256 * MEBIBYTE
# At least both: flushing 32 states costs 0.012 bit per symbol at 64 Ki, 0.047 at 16 Ki, and more of a smaller unit.
BLOCK_UNITS, BLOCK_BYTES = 64 * KIBIBYTE, 128 * KIBIBYTE
# Deltas of deltas; each level decodes the one below for every chunk, unless that is a pack that is kept. All that bases
# take is bounded, as what files decode to is, by EXPANSION times their length (reading/base_units.py).
MAX_BASE_DEPTH = 8
MAX_SEARCHED_FILES = 10_000  # weight files of one folder that are looked at for a base
MAX_FETCHERS = 8  # threads that only wait for a slow source; a network needs several requests under way
FETCHED_BYTES = 64 * MEBIBYTE  # chunks that such threads may hold
MAX_TRIED_BASES = 4096  # tensors that do not do for one base and for what it is made from: no chain takes for ever
