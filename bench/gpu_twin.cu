// The kernel `decode_u16_8_8` in CUDA C++, on the same work list: what the compiler for Python costs is the difference.
// Constants come from kernels/cuda/rows.py, as options of the compiler.

extern "C" __global__ void __launch_bounds__(CODER_THREADS)
twin(const unsigned char *bytes, const unsigned short *words, const unsigned *numbers, const unsigned *items,
     const unsigned *block_rows, const unsigned short *starts, unsigned short *out, unsigned *status) {
  __shared__ unsigned table[4096];
  const unsigned thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const unsigned *item = items + blockIdx.x * ITEM;
  const unsigned short *first = starts + item[TABLE];
  const unsigned base = item[BASE], precision = item[PRECISION], slots = 1u << precision;
  for (unsigned i = thread; i < 4096; i += CODER_THREADS) {
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
    const unsigned below = (1u << lane) - 1, keep = item[KEEP], fill = item[FILL], limit = item[LAST] >> 1;
    const unsigned *row = block_rows + item[ROW] + warp * BLOCK_ROW;
    const unsigned char *raw = bytes + item[PIECES] + lane;
    unsigned group = row[GROUP_AT], within = row[WORD] & 1, x = numbers[item[STATES] + thread];
    // Pairs of words of this window, of the next one, and of the one after that (kernels/cuda/words.py).
    unsigned next = (row[WORD] >> 1) + lane;
    unsigned near = numbers[min(next, limit)], far = numbers[min(next + 32, limit)];
    unsigned coming = numbers[min(next + 64, limit)];
    next += 96;
    for (unsigned left = row[GROUPS]; left > 0; --left, ++group) {
      const unsigned char *some = raw + ((keep & 1) ? 128ull * group : 0);
      const unsigned rest[4] = {some[0], some[32], some[64], some[96]};
      unsigned short *to = chunk + 128ull * group + lane;
#pragma unroll
      for (unsigned step = 0; step < 4; ++step) {
        const unsigned entry = table[x & 4095];
        x = (entry >> 20) * (x >> 12) + (entry & 4095);
        const bool hungry = x < STATE_MIN;
        const unsigned votes = __ballot_sync(0xffffffffu, hungry), index = within + __popc(votes & below);
        const unsigned taken = __shfl_sync(0xffffffffu, (lane << 1 | 1) >= within ? near : far, index >> 1);
        if (hungry) x = __byte_perm(taken, x, 0x5410 + (index & 1) * 0x22);
        within += __popc(votes);
        if ((step & 1) && within >= 64) {
          within -= 64, near = far, far = coming;
          coming = numbers[min(next, limit)], next += 32;
        }
        const unsigned value = ((entry >> 12) & 255) << 8 | (rest[step] & keep) | fill;
        to[32 * step] = (value | value << 16) >> 1;
      }
    }
    const unsigned at = ((next - lane - 96) << 1) + within;
    if (x != STATE_MIN || at != row[END]) atomicOr(status + blockIdx.x, BAD_END);
  }
  __syncthreads();
  for (unsigned i = thread; i < item[ESCAPES]; i += CODER_THREADS) {
    const unsigned place = numbers[item[POSITIONS] + i];
    if (chunk[place] >> 7 & 255)
      atomicOr(status + blockIdx.x, BAD_ESCAPE);
    else
      chunk[place] |= words[item[FIELDS] + i] << 7;
  }
}
