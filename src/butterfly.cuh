// The discrete Fourier transform of a short column in a thread's registers.
//
//     Z[k] = sum over j of z[j] e^(SIGN 2 pi i j k / N),   0 <= k < N, a power of two
//
// The textbook's recursion: transforms of the even and of the odd elements, joined by N/2 butterflies
//
//     Z[k], Z[k + N/2] = u + w v, u - w v,    u = even[k], v = odd[k], w = e^(SIGN 2 pi i k / N)
//
// All of it is unrolled, so that elements are registers and their order is no instruction.
//
// Costs: a butterfly is six FFMA. With c the cosine and t the tangent of the angle, w v = c (1 + i t) v: two make
// (1 + i t) v, four add c times its parts to u and subtract them. Where the tangent exceeds 1, sine and cotangent do
// the same. Butterflies with w = 1 or w = +-i are four additions. N = 16 takes 148 instructions, 32 388, 64 964.
//
// Example: N = 8 joins two transforms of 4; of its butterflies one has w = 1, one w = -i, and two are six FFMA each.
#pragma once

__device__ __forceinline__ float2 operator+(float2 a, float2 b) { return {a.x + b.x, a.y + b.y}; }
__device__ __forceinline__ float2 operator-(float2 a, float2 b) { return {a.x - b.x, a.y - b.y}; }

// ---- twiddles, while compiling --------------------------------------------------------------------------------------

// The sine of 2 pi * turns, |turns| <= 1/2, by Taylor's series: to the last bits of a double.
constexpr __host__ __device__ double sine(double turns) {
    const double angle = 2 * 3.14159265358979323846 * turns;
    double term = angle, sum = angle;
    for (int n = 2; n < 32; n += 2) {
        term *= -angle * angle / (n * (n + 1));
        sum += term;
    }
    return sum;
}

// w of butterfly K as greater * (1 + i ratio) where it is wide; else as greater * (ratio + i).
template <int N, int SIGN, int K>
struct Twiddle {
    static constexpr double re = sine(0.25 - double(K) / N), im = SIGN * sine(double(K) / N);
    static constexpr bool wide = 8 * K <= N || 8 * K >= 3 * N;
    static constexpr float greater = float(wide ? re : im), ratio = float(wide ? im / re : re / im);
};

// ---- the transform --------------------------------------------------------------------------------------------------

// Butterflies K, K + 1, ... of the last step of a transform of length N.
template <int N, int SIGN, int K = 0>
__device__ __forceinline__ void butterflies(float2 *Z) {
    const float2 u = Z[K], v = Z[K + N / 2];
    if constexpr (K == 0) {
        Z[K] = u + v;
        Z[K + N / 2] = u - v;
    } else if constexpr (4 * K == N) {
        Z[K] = {u.x - SIGN * v.y, u.y + SIGN * v.x};
        Z[K + N / 2] = {u.x + SIGN * v.y, u.y - SIGN * v.x};
    } else {
        using W = Twiddle<N, SIGN, K>;
        constexpr float c = W::greater, t = W::ratio;
        const float2 turned = W::wide ? float2{v.x - t * v.y, v.y + t * v.x} : float2{t * v.x - v.y, t * v.y + v.x};
        Z[K] = {u.x + c * turned.x, u.y + c * turned.y};
        Z[K + N / 2] = {u.x - c * turned.x, u.y - c * turned.y};
    }
    if constexpr (2 * K + 2 < N) butterflies<N, SIGN, K + 1>(Z);
}

// Z = transform of z[0], z[STEP], z[2 * STEP], ...: N elements. Any thread may call it alone.
template <int N, int SIGN, int STEP = 1>
__device__ __forceinline__ void fft(const float2 *z, float2 *Z) {
    if constexpr (N == 1) {
        Z[0] = z[0];
    } else {
        fft<N / 2, SIGN, 2 * STEP>(z, Z);
        fft<N / 2, SIGN, 2 * STEP>(z + STEP, Z + N / 2);
        butterflies<N, SIGN>(Z);
    }
}
