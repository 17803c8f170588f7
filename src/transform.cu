// Planes to spectra and back: batched two-dimensional real transforms, frequency-major.
//
//     X[f, p] = 2 * sum over r, j of x[p, r, j] e^(-2 pi i (ky r + kx j) / T)
//     y[p, r, j] = scale * sum over all bins of X[f, p] e^(+2 pi i (ky r + kx j) / T) + bias[c] + beta * y[p, r, j]
//
// f numbers the T*T/2 + 2 bins that are not conjugates of others: rows ky = 0 and T/2 as far as kx = T/2, then the rows
// between, whole. Spectra are doubled, as splitting two planes leaves them; `scale` pays for it.
//
// Mapping: a block takes B consecutive planes with T*B/2 threads, and a thread one column or one row of length T in
// registers. Two planes are the real and the imaginary part of one complex column.
//
//     transform   thread (column j, planes 2q and 2q+1), neighbours along j: samples -> columns -> tile
//                 thread (row ky, plane b), neighbours along b: tile -> rows -> spectrum, 8*B bytes of a bin at once
//     inverse     the mirror image
//
// Rows 0 and T/2 of a real plane's columns are real: one complex row of the tile holds both, so a tile has T/2 rows.
//
// Costs of a plane: 4*h*w bytes of samples, 8*(T*T/2 + 2) of bins, T transforms of length T; one barrier a block.
//
// Source of the scheme: Vasilache et al., Fast convolutional nets with fbfft (arXiv 1412.7580).
#include "butterfly.cuh"
#include "planes.cuh"

// ---- the tile in shared memory ---------------------------------------------------------------------------------------

// [plane][row][column], with strides that keep half a warp, 16 accesses of 8 bytes, on 16 different pairs of banks:
// along a row always; along planes, as the plane stride is odd; and across B planes of m = 16/B rows where B is less, as
// the row stride is odd and the plane stride an odd multiple of m.
template <int T, int B, bool HALF>
struct Tile {
    static constexpr int HEIGHT = HALF ? T / 2 : T;  // rows and columns that can hold samples
    static constexpr int ROWS = T / 2;
    static constexpr int m = B < 16 ? 16 / B : 1;
    static constexpr int ROW = m == 1 ? HEIGHT : HEIGHT | 1;
    static constexpr int PLANE = ROWS * ROW + ((m - ROWS * ROW) % (2 * m) + 2 * m) % (2 * m);
};

extern __shared__ float2 tile[];

// ---- two real signals in one complex one -----------------------------------------------------------------------------

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

// ---- a row of a spectrum ---------------------------------------------------------------------------------------------

// Row ky of one plane, where `bin` points to the plane's value in bin 0. Row 0 is row 0 plus i times row T/2: two real
// signals' worth of bins, of which 0 and T/2 are real.
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

// ---- the kernels -----------------------------------------------------------------------------------------------------

// HALF: no position from T/2 on holds a sample, on either axis. SPACED: samples may lie apart. BLOCKS: of a
// multiprocessor at once, which leaves each thread 65536 / (T*B/2 * BLOCKS) registers.
template <int T, int B, bool HALF, bool SPACED, int BLOCKS>
__global__ void __launch_bounds__(T *B / 2, BLOCKS)
    transform(const float *__restrict__ gx, float2 *__restrict__ gX, Planes planes, Strides strides, AxisMap rows,
              AxisMap columns) {
    using Sizes = Tile<T, B, HALF>;
    const int thread = threadIdx.x;
    const unsigned p = blockIdx.x * B;
    float2 z[T], Z[T];

    const int j = thread % Sizes::HEIGHT, q = thread / Sizes::HEIGHT;
    if (q < B / 2) {
        const Place place(planes, p + 2 * q);
        Column<const float, T, SPACED> a(gx, planes, strides, rows, columns, place, p + 2 * q < planes.count, j);
        Column<const float, T, SPACED> b(gx, planes, strides, rows, columns, place.next(planes), p + 2 * q + 1 < planes.count, j);
#pragma unroll
        for (int r = 0; r < T; ++r) {
            z[r] = {0, 0};
            if (r < Sizes::HEIGHT) {
                if (a.holds(r)) z[r].x = *a.sample;
                if (b.holds(r)) z[r].y = *b.sample;
                a.step(r, strides.row);
                b.step(r, strides.row);
            }
        }
        fft<T, -1>(z, Z);
        float2 *of_a = tile + 2 * q * Sizes::PLANE + j, *of_b = of_a + Sizes::PLANE;
        of_a[0] = {2 * Z[0].x, 2 * Z[T / 2].x};
        of_b[0] = {2 * Z[0].y, 2 * Z[T / 2].y};
#pragma unroll
        for (int k = 1; k < T / 2; ++k) split(Z[k], Z[T - k], of_a[k * Sizes::ROW], of_b[k * Sizes::ROW]);
    }
    __syncthreads();  // all columns are written before a row is read

    const int plane = thread % B, ky = thread / B;
    const float2 *row = tile + plane * Sizes::PLANE + ky * Sizes::ROW;
#pragma unroll
    for (int i = 0; i < T; ++i) z[i] = i < Sizes::HEIGHT ? row[i] : float2{0, 0};
    fft<T, -1>(z, Z);
    if (p + plane < planes.count) store_row<T>(Z, gX + p + plane, strides.pitch, ky);
}

// ACCUMULATE: beta counts; else y is not read. Old values are loaded TOGETHER rows at a time, before any is overwritten.
template <int T, int B, bool HALF, bool SPACED, bool ACCUMULATE, int BLOCKS>
__global__ void __launch_bounds__(T *B / 2, BLOCKS)
    inverse(const float2 *__restrict__ gX, float *__restrict__ gy, const float *__restrict__ gbias, Planes planes,
            Strides strides, AxisMap rows, AxisMap columns, Epilogue epilogue) {
    using Sizes = Tile<T, B, HALF>;
    constexpr int TOGETHER = 2;
    const int thread = threadIdx.x;
    const unsigned p = blockIdx.x * B;
    float2 z[T], Z[T];

    const int plane = thread % B, ky = thread / B;
    load_row<T>(Z, gX + min(p + plane, planes.count - 1), strides.pitch, ky);  // the last stands for planes that are not
    fft<T, 1>(Z, z);
    float2 *row = tile + plane * Sizes::PLANE + ky * Sizes::ROW;
#pragma unroll
    for (int i = 0; i < Sizes::HEIGHT; ++i) row[i] = z[i];
    __syncthreads();  // all rows are written before a column is read

    const int j = thread % Sizes::HEIGHT, q = thread / Sizes::HEIGHT;
    if (q >= B / 2) return;
    const float2 *of_a = tile + 2 * q * Sizes::PLANE + j, *of_b = of_a + Sizes::PLANE;
    Z[0] = {of_a[0].x, of_b[0].x};
    Z[T / 2] = {of_a[0].y, of_b[0].y};
#pragma unroll
    for (int k = 1; k < T / 2; ++k) join(of_a[k * Sizes::ROW], of_b[k * Sizes::ROW], Z[k], Z[T - k]);
    fft<T, 1>(Z, z);

    const Place place(planes, p + 2 * q), next = place.next(planes);
    Column<float, T, SPACED> a(gy, planes, strides, rows, columns, place, p + 2 * q < planes.count, j);
    Column<float, T, SPACED> b(gy, planes, strides, rows, columns, next, p + 2 * q + 1 < planes.count, j);
    float2 bias = {0, 0};
    if (planes.has_bias) bias = {gbias[place.channel], gbias[next.channel]};
#pragma unroll
    for (int first = 0; first < Sizes::HEIGHT; first += TOGETHER) {
        if (ACCUMULATE) {
            auto old_a = a, old_b = b;
#pragma unroll
            for (int r = first; r < first + TOGETHER; ++r) {
                // The scale of z comes first, so that beta * y is one FFMA on it.
                z[r] = {epilogue.scale * z[r].x + bias.x, epilogue.scale * z[r].y + bias.y};
                if (old_a.holds(r)) z[r].x += epilogue.beta * *old_a.sample;
                if (old_b.holds(r)) z[r].y += epilogue.beta * *old_b.sample;
                old_a.step(r, strides.row);
                old_b.step(r, strides.row);
            }
        }
#pragma unroll
        for (int r = first; r < first + TOGETHER; ++r) {
            if (!ACCUMULATE) z[r] = {epilogue.scale * z[r].x + bias.x, epilogue.scale * z[r].y + bias.y};
            if (a.holds(r)) *a.sample = z[r].x;
            if (b.holds(r)) *b.sample = z[r].y;
            a.step(r, strides.row);
            b.step(r, strides.row);
        }
    }
}
