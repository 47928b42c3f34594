// What lies between two convolutions. Tensors are N x height x width x channels; a thread computes some neighbouring
// channels, or the four of one pixel. A number in eight bits is worth a scale times as much; factors rescale.

struct Int8 { signed char bits; };
struct Float8 { unsigned char bits; };   // e4m3
struct Float16 { unsigned short bits; };
struct Float32 { float bits; };

template <typename T, int MANY> struct alignas(MANY * sizeof(T)) Some { T of[MANY]; };
template <typename T> using Four = Some<T, 4>;

// The bits of 1.5 * 2^23 plus an integer are those of their sum: two additions, where a conversion takes as long as four.
__device__ float number(Int8 x) { return __int_as_float(0x4b400000 + x.bits) - 12582912.0f; }
__device__ float number(Float32 x) { return x.bits; }
__device__ float number(Float16 x) {
  float found;
  asm("cvt.f32.f16 %0, %1;" : "=f"(found) : "h"(x.bits));
  return found;
}
// What compares as the numbers do: turning an integer into a float takes four times as long as comparing two.
__device__ int rank(Int8 x) { return x.bits; }
template <typename T> __device__ float rank(T x) { return number(x); }
__device__ int lowest(Int8) { return -128; }
template <typename T> __device__ float lowest(T) { return __int_as_float(0xff800000); }

__device__ void store(Int8 &to, float x) {
  int rounded;
  asm("cvt.rni.sat.s8.f32 %0, %1;" : "=r"(rounded) : "f"(x));  // to the nearest, halves to even
  to.bits = rounded;
}
__device__ void store(Float16 &to, float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x)); }
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 890  // older GPUs have no FP8
__device__ float number(Float8 x) {
  unsigned two;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(two) : "h"((unsigned short)x.bits));
  return number(Float16{(unsigned short)two});
}
__device__ void store(Float8 &to, float x) {
  unsigned short two;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(two) : "f"(0.0f), "f"(x));
  to.bits = two;
}
#endif

#define THIS_THREAD (blockIdx.x * blockDim.x + threadIdx.x)

// Pictures as an application has them, channel by channel, become pixels with four channels; what is missing is zero.
// Of each column, ROWS pixels follow each other.
template <typename In, typename Out, int ROWS>
__global__ void pictures(const In *from, Four<Out> *to, unsigned pixels, unsigned area, unsigned width, int channels,
                         float factor) {
  const unsigned place = THIS_THREAD;
  if (place >= pixels) return;
  const unsigned here = place % area, column = here / ROWS % width, row = here / ROWS / width * ROWS + here % ROWS;
  const In *first = from + (long long)(place / area) * area * channels + (ROWS == 1 ? here : row * width + column);
  Four<Out> found;
  for (int c = 0; c < 4; ++c) store(found.of[c], c < channels ? number(first[c * (long long)area]) * factor : 0.0f);
  to[place] = found;
}

// A thread computes MANY channels, so that finding out where they are costs little beside loading and comparing them.
template <typename In, typename Out, int MANY>
__global__ void max_pool(const Some<In, MANY> *from, Some<Out, MANY> *to, unsigned count, unsigned groups, int height,
                         int width, unsigned rows, unsigned columns, int size, int stride, int padding, float factor) {
  const unsigned place = THIS_THREAD;
  if (place >= count) return;
  const unsigned group = place % groups, pixel = place / groups;
  const int x = pixel % columns, y = pixel / columns % rows;
  const Some<In, MANY> *picture = from + (long long)(pixel / columns / rows) * height * width * groups + group;
  decltype(rank(In{})) most[MANY];
#pragma unroll
  for (int c = 0; c < MANY; ++c) most[c] = lowest(In{});
  for (int row = max(y * stride - padding, 0); row < min(y * stride - padding + size, height); ++row)
    for (int column = max(x * stride - padding, 0); column < min(x * stride - padding + size, width); ++column) {
      const Some<In, MANY> here = picture[((long long)row * width + column) * groups];
#pragma unroll
      for (int c = 0; c < MANY; ++c) most[c] = max(most[c], rank(here.of[c]));
    }
  Some<Out, MANY> found;
#pragma unroll
  for (int c = 0; c < MANY; ++c) store(found.of[c], (float)most[c] * factor);
  to[place] = found;
}

template <typename In, typename Out>
__global__ void mean(const Four<In> *from, Four<Out> *to, unsigned count, unsigned fours, int area, float factor) {
  const unsigned place = THIS_THREAD;
  if (place >= count) return;
  const Four<In> *pixel = from + (long long)(place / fours) * area * fours + place % fours;
  float sum[4] = {0, 0, 0, 0};
  for (int p = 0; p < area; ++p, pixel += fours)
    for (int c = 0; c < 4; ++c) sum[c] += number(pixel->of[c]);
  Four<Out> found;
  for (int c = 0; c < 4; ++c) store(found.of[c], sum[c] / area * factor);
  to[place] = found;
}

// A thread computes PIXELS neighbours of a row, so that each number it reads serves several windows.
template <typename In, typename Out, int SIZE, int STRIDE, int PIXELS>
__global__ void depthwise(const Four<In> *from, const Four<Float16> *weights, const float *multiplier,
                          const float *bias, Four<Out> *to, unsigned count, unsigned fours, int height, int width,
                          unsigned rows, unsigned columns, int padding, float floor, float ceiling) {
  const unsigned place = THIS_THREAD;
  if (place >= count) return;
  const unsigned strips = (columns + PIXELS - 1) / PIXELS, four = place % fours, strip = place / fours;
  const int x = strip % strips * PIXELS, y = strip / strips % rows;
  const long long picture = strip / strips / rows;
  constexpr int READ = (PIXELS - 1) * STRIDE + SIZE;
  float sum[PIXELS][4] = {};
  for (int r = 0; r < SIZE; ++r) {
    const int row = y * STRIDE + r - padding;
    if (row < 0 || row >= height) continue;
    float line[READ][4];
#pragma unroll
    for (int i = 0; i < READ; ++i) {
      const int column = x * STRIDE + i - padding;
      const bool inside = column >= 0 && column < width;
      const Four<In> here = inside ? from[((picture * height + row) * width + column) * fours + four] : Four<In>{};
#pragma unroll
      for (int c = 0; c < 4; ++c) line[i][c] = number(here.of[c]);
    }
#pragma unroll
    for (int s = 0; s < SIZE; ++s) {
      const Four<Float16> weight = weights[(r * SIZE + s) * fours + four];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float w = number(weight.of[c]);
#pragma unroll
        for (int p = 0; p < PIXELS; ++p) sum[p][c] += line[p * STRIDE + s][c] * w;
      }
    }
  }
#pragma unroll
  for (int p = 0; p < PIXELS; ++p) {
    if (x + p >= columns) break;
    Four<Out> found;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const float result = sum[p][c] * multiplier[4 * four + c] + bias[4 * four + c];
      store(found.of[c], fminf(fmaxf(result, floor), ceiling));
    }
    to[((picture * rows + y) * columns + x + p) * fours + four] = found;
  }
}
