// The kernel `decode_u16_8_8` in CUDA C++, on the same work list: what the compiler for Python costs is the difference.
// Constants come from kernels/cuda/rows.py, as options of the compiler.

extern "C" __global__ void __launch_bounds__(THREADS)
twin(const unsigned char *bytes, const unsigned short *words, const unsigned *numbers, const unsigned *items,
     const unsigned *block_rows, const unsigned short *starts, unsigned short *out, unsigned *status) {
  __shared__ unsigned table[4096];
  const unsigned thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const unsigned *item = items + blockIdx.x * ITEM;
  const unsigned short *first = starts + item[TABLE];
  const unsigned base = item[BASE], precision = item[PRECISION], slots = 1u << precision;
  for (unsigned i = thread; i < 4096; i += THREADS) {
    const unsigned slot = i & (slots - 1);
    unsigned symbol = 0;
    for (unsigned step = 128; step > 0; step >>= 1)
      if (first[symbol + step] <= slot) symbol += step;
    const unsigned start = first[symbol], end = symbol < 255 ? first[symbol + 1] : slots;
    const unsigned frequency = end - start, bias = slot - start + (i >> precision) * frequency;
    const unsigned field = symbol > 0 ? (symbol + base) & 255 : 0;
    table[i] = (frequency << (12 - precision)) << 20 | field << 12 | bias;
  }
  __syncthreads();

  unsigned short *chunk = out + (item[OUT] | (unsigned long long)item[OUT_HIGH] << 32);
  if (warp < item[BLOCKS]) {
    const unsigned below = (1u << lane) - 1, keep = item[KEEP], fill = item[FILL], last = item[LAST];
    const unsigned *row = block_rows + item[ROW] + warp * BLOCK_ROW;
    const unsigned char *raw = bytes + item[PIECES];
    unsigned group = row[GROUP_AT], at = row[WORD], x = numbers[item[STATES] + thread];
    for (unsigned left = row[GROUPS]; left > 0; --left, ++group) {
      const unsigned char *some = raw + ((keep & 1) ? 128 * group : 0) + lane;
#pragma unroll
      for (unsigned step = 0; step < 4; ++step) {
        const unsigned entry = table[x & 4095];
        x = (entry >> 20) * (x >> 12) + (entry & 4095);
        const bool hungry = x < STATE_MIN;
        const unsigned votes = __ballot_sync(0xffffffffu, hungry);
        if (hungry) x = x << 16 | words[min(at, last) + __popc(votes & below)];
        at += __popc(votes);
        const unsigned value = ((entry >> 12) & 255) << 8 | (some[32 * step] & keep) | fill;
        chunk[group * 128 + 32 * step + lane] = (value | value << 16) >> 1;
      }
    }
    if (x != STATE_MIN || at != row[END]) atomicOr(status + blockIdx.x, BAD_END);
  }
  __syncthreads();
  for (unsigned i = thread; i < item[ESCAPES]; i += THREADS) {
    const unsigned place = numbers[item[POSITIONS] + i];
    if (chunk[place] >> 7 & 255)
      atomicOr(status + blockIdx.x, BAD_ESCAPE);
    else
      chunk[place] |= words[item[FIELDS] + i] << 7;
  }
}
