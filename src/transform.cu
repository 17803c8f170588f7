// Planes to spectra and back: batched two-dimensional real transforms, frequency-major.
//
//     X[f, p] = 2 * sum over r, j of x[p, r, j] e^(-2 pi i (ky r + kx j) / T)
//     y[p, r, j] = scale * sum over all bins of X[f, p] e^(+2 pi i (ky r + kx j) / T) + bias[c] + beta * y[p, r, j]
//
// f numbers the T*T/2 + 2 bins that are not conjugates of others: rows ky = 0 and T/2 as far as kx = T/2, then the rows
// between, whole. Spectra are doubled, as splitting two planes leaves them; `scale` pays for it.
//
// Mapping: a block takes B consecutive planes with T*B/2 threads; a thread transforms one column, then one row, of
// length T in registers. Two planes are the real and the imaginary part of one complex column.
//
//     transform   thread (column j, planes 2q and 2q+1), neighbours along j: samples -> column -> tile
//                 thread (row ky, plane b), neighbours along b: tile -> row -> spectrum, 8*B bytes of a bin at once
//     inverse     the mirror image
//
// Elements 0 and T/2 of a transformed real column are real: one row of the tile holds both, and a tile has T/2 rows.
//
// Costs of a plane: 4*h*w bytes of samples, 8*(T*T/2 + 2) of bins, T transforms of length T. One barrier a block.
//
// Example: T = 32, B = 8 is 128 threads and a tile of 33 KB. Thread 37 loads column 5 of planes 2 and 3, then stores
// row 4 of plane 5: bins 130 to 161.
//
// Source of the scheme: Vasilache et al., Fast convolutional nets with fbfft (arXiv 1412.7580).
#include "butterfly.cuh"
#include "planes.cuh"

// ---- the tile in shared memory --------------------------------------------------------------------------------------

// [plane][row][column], with strides that keep half a warp, 16 accesses of 8 bytes, on 16 different pairs of banks:
// along a row always; along planes, as the plane stride is odd; and across B planes of m = 16/B rows where B is less, as
// the row stride is odd and the plane stride an odd multiple of m.
template <int T, int B, bool HALF>
struct Layout {
    static constexpr int WIDTH = HALF ? T / 2 : T;  // columns that can hold samples; tiles are square
    static constexpr int m = B < 16 ? 16 / B : 1;
    static constexpr int ROW = m == 1 ? WIDTH : WIDTH | 1;
    static constexpr int DENSE = T / 2 * ROW;
    static constexpr int PLANE = DENSE + ((m - DENSE) % (2 * m) + 2 * m) % (2 * m);
};

extern __shared__ float2 tile[];

// ---- two real signals in one complex one ----------------------------------------------------------------------------

// u = z[k] and v = z[-k] of z = a + i b, where a and b are real signals: twice a[k] and b[k].
__device__ __forceinline__ void split(float2 u, float2 v, float2 &a, float2 &b) {
    a = {u.x + v.x, u.y - v.y};
    b = {u.y + v.y, v.x - u.x};
}

// The other way round: z[k] = a + i b, z[-k] = conj a + i conj b.
__device__ __forceinline__ void join(float2 a, float2 b, float2 &u, float2 &v) {
    u = {a.x - b.y, a.y + b.x};
    v = {a.x + b.y, b.x - a.y};
}

__device__ __forceinline__ float2 half(float2 a) { return {0.5f * a.x, 0.5f * a.y}; }

// ---- a row of a spectrum --------------------------------------------------------------------------------------------

// Row ky of one plane, whose value in bin 0 is at `bin`. Row 0 is row 0 plus i times row T/2: two real signals, whose
// bins 0 and T/2 are real.
template <int T>
__device__ __forceinline__ void store_row(const float2 *Z, float2 *bin, long long pitch, int ky) {
    if (ky == 0) {
        float2 *middle = bin + (T / 2 + 1) * pitch;
#pragma unroll
        for (int k = 0; k <= T / 2; ++k, bin += pitch, middle += pitch) {
            float2 a = {Z[k].x, 0}, b = {Z[k].y, 0};
            if (k % (T / 2)) split(half(Z[k]), half(Z[T - k]), a, b);
            *bin = a;
            *middle = b;
        }
    } else {
        bin += (ky * T + 2) * pitch;
#pragma unroll
        for (int k = 0; k < T; ++k, bin += pitch) *bin = Z[k];
    }
}

template <int T>
__device__ __forceinline__ void load_row(float2 *Z, const float2 *bin, long long pitch, int ky) {
    if (ky == 0) {
        const float2 *middle = bin + (T / 2 + 1) * pitch;
#pragma unroll
        for (int k = 0; k <= T / 2; ++k, bin += pitch, middle += pitch) {
            if (k % (T / 2)) join(*bin, *middle, Z[k], Z[T - k]);
            else Z[k] = {bin->x, middle->x};
        }
    } else {
        bin += (ky * T + 2) * pitch;
#pragma unroll
        for (int k = 0; k < T; ++k, bin += pitch) Z[k] = *bin;
    }
}

// ---- the kernels ----------------------------------------------------------------------------------------------------

// HALF: no position from T/2 on holds a sample, on either axis. SPACED: samples may lie apart. BLOCKS: on a
// multiprocessor at once, from which a thread has its registers.
template <int T, int B, bool HALF, bool SPACED, int BLOCKS>
__global__ void __launch_bounds__(T *B / 2, BLOCKS)
    transform(const float *__restrict__ gx, float2 *__restrict__ gX, Planes planes, Strides strides, AxisMap rows,
              AxisMap columns) {
    using Tile = Layout<T, B, HALF>;
    const unsigned p = blockIdx.x * B;
    float2 z[T], Z[T];

    const int j = threadIdx.x % Tile::WIDTH, q = threadIdx.x / Tile::WIDTH;
    if (q < B / 2) {
        const unsigned pa = p + 2 * q, pb = pa + 1;
        const Place place(planes, pa), next = place.next(planes);
        Column<const float, T, SPACED> a(gx, planes, strides, rows, columns, place, pa < planes.count, j);
        Column<const float, T, SPACED> b(gx, planes, strides, rows, columns, next, pb < planes.count, j);
#pragma unroll
        for (int r = 0; r < T; ++r) {
            z[r] = {0, 0};
            if (r >= Tile::WIDTH) continue;
            if (a.holds(r)) z[r].x = *a.sample;
            if (b.holds(r)) z[r].y = *b.sample;
            a.step(r, strides.row);
            b.step(r, strides.row);
        }
        fft<T, -1>(z, Z);
        float2 *to_a = tile + 2 * q * Tile::PLANE + j, *to_b = to_a + Tile::PLANE;
        to_a[0] = {2 * Z[0].x, 2 * Z[T / 2].x};
        to_b[0] = {2 * Z[0].y, 2 * Z[T / 2].y};
#pragma unroll
        for (int k = 1; k < T / 2; ++k) split(Z[k], Z[T - k], to_a[k * Tile::ROW], to_b[k * Tile::ROW]);
    }
    __syncthreads();  // all columns are written before a row is read

    const int plane = threadIdx.x % B, ky = threadIdx.x / B;
    const float2 *row = tile + plane * Tile::PLANE + ky * Tile::ROW;
#pragma unroll
    for (int i = 0; i < T; ++i) z[i] = i < Tile::WIDTH ? row[i] : float2{0, 0};
    fft<T, -1>(z, Z);
    if (p + plane < planes.count) store_row<T>(Z, gX + p + plane, strides.pitch, ky);
}

// ACCUMULATE: beta counts; else y is not read.
template <int T, int B, bool HALF, bool SPACED, bool ACCUMULATE, int BLOCKS>
__global__ void __launch_bounds__(T *B / 2, BLOCKS)
    inverse(const float2 *__restrict__ gX, float *__restrict__ gy, const float *__restrict__ gbias, Planes planes,
            Strides strides, AxisMap rows, AxisMap columns, Epilogue epilogue) {
    using Tile = Layout<T, B, HALF>;
    const unsigned p = blockIdx.x * B;
    float2 z[T], Z[T];

    const int plane = threadIdx.x % B, ky = threadIdx.x / B;
    load_row<T>(Z, gX + min(p + plane, planes.count - 1), strides.pitch, ky);  // the last plane stands for those beyond
    fft<T, 1>(Z, z);
    float2 *row = tile + plane * Tile::PLANE + ky * Tile::ROW;
#pragma unroll
    for (int i = 0; i < Tile::WIDTH; ++i) row[i] = z[i];
    __syncthreads();  // all rows are written before a column is read

    const int j = threadIdx.x % Tile::WIDTH, q = threadIdx.x / Tile::WIDTH;
    if (q >= B / 2) return;
    const float2 *of_a = tile + 2 * q * Tile::PLANE + j, *of_b = of_a + Tile::PLANE;
    Z[0] = {of_a[0].x, of_b[0].x};
    Z[T / 2] = {of_a[0].y, of_b[0].y};
#pragma unroll
    for (int k = 1; k < T / 2; ++k) join(of_a[k * Tile::ROW], of_b[k * Tile::ROW], Z[k], Z[T - k]);
    fft<T, 1>(Z, z);

    const unsigned pa = p + 2 * q, pb = pa + 1;
    const Place place(planes, pa), next = place.next(planes);
    Column<float, T, SPACED> a(gy, planes, strides, rows, columns, place, pa < planes.count, j);
    Column<float, T, SPACED> b(gy, planes, strides, rows, columns, next, pb < planes.count, j);
    const float2 bias = planes.has_bias ? float2{gbias[place.channel], gbias[next.channel]} : float2{0, 0};
#pragma unroll
    for (int r = 0; r < Tile::WIDTH; ++r) z[r] = {epilogue.scale * z[r].x + bias.x, epilogue.scale * z[r].y + bias.y};
    constexpr int TOGETHER = 2;  // rows whose old values are loaded before one of them is stored: no load overtakes it
#pragma unroll
    for (int first = 0; first < Tile::WIDTH; first += TOGETHER) {
        auto old_a = a, old_b = b;
#pragma unroll
        for (int r = first; ACCUMULATE && r < first + TOGETHER; ++r) {
            if (old_a.holds(r)) z[r].x += epilogue.beta * *old_a.sample;
            if (old_b.holds(r)) z[r].y += epilogue.beta * *old_b.sample;
            old_a.step(r, strides.row);
            old_b.step(r, strides.row);
        }
#pragma unroll
        for (int r = first; r < first + TOGETHER; ++r) {
            if (a.holds(r)) *a.sample = z[r].x;
            if (b.holds(r)) *b.sample = z[r].y;
            a.step(r, strides.row);
            b.step(r, strides.row);
        }
    }
}
