// The multiply stage: one complex matrix product a bin and group, Y[f] = op(A[f]) op(B[f]) / 2, or that added to Y.
//
//     A is rows x depth, B is depth x columns, Y is rows x columns; op conjugates or does nothing.
//     An operand is k-major where the depth runs along its rows in memory; else its rows, or columns, do.
//
// Spectra are stored doubled, so their product is halved; where Y is added to, sums start from 2*Y, which is exact.
//
// Mapping: blockIdx.x counts tiles of BN columns, y of BM rows, z bins times groups, groups fastest. A block has
// BM*BN / (TM*TN) threads; a thread keeps TM x TN sums in registers. Slabs of BK steps of both operands come by
// cp.async into a ring of STAGES in shared memory: one is multiplied while the others are on their way. Lanes of a warp
// form a rectangle of 8 x 4 threads (4 x 8 where the block is narrow) along a Z-curve, and the elements of a thread lie
// as far apart as there are threads: eight lanes that are served at once read at most four addresses of an operand, on
// different banks.
//
// Costs of a thread and slab: 4*TM*TN*BK FFMA, (TM + TN)*BK/2 loads of 16 bytes, one barrier. Costs of a bin:
// 8*rows*columns*depth flops, and 8 bytes for each value of A, B and Y.
//
// Example: tiles of 64 x 64, thread tiles of 8 x 4: 128 threads, 16 across and 8 down. For a slab of 8 steps a thread
// makes 1024 FFMA and 48 loads, and copies 16 bytes four times.
//
// Source of the scheme: CUTLASS, Efficient GEMM in CUDA (docs/efficient_gemm), multistage SIMT.

struct Shape {
    int rows, columns, depth;
    int lda, ldb, ldy;
    int groups, accumulate;
};

struct Pitches {  // from a bin to the next
    long long a, b, y;
};

static_assert(sizeof(Shape) == 8 * sizeof(int) && alignof(Shape) == 4, "fields lie one behind the other");
static_assert(sizeof(Pitches) == 3 * sizeof(long long) && alignof(Pitches) == 8, "fields lie one behind the other");

// ---- asynchronous copies --------------------------------------------------------------------------------------------

// VEC complex values to an address in shared memory, or zeros; data does not pass through registers.
template <int VEC>
__device__ __forceinline__ void copy_async(unsigned to, const float2 *from, bool wanted) {
    const int bytes = wanted ? VEC * sizeof(float2) : 0;
    if constexpr (VEC == 2)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// ---- an operand -----------------------------------------------------------------------------------------------------

// EXTENT rows of A, or columns of B, are a block's; each of COUNT threads along them owns OWN.
template <int EXTENT, int OWN, int BK, bool KMAJOR, int VEC, int THREADS>
struct Operand {
    static constexpr int COUNT = EXTENT / OWN;
    // A slab in shared memory lies as the operand does in global memory: [EXTENT][BK] or [BK][EXTENT]. Rows along k are
    // an odd number of 16 bytes, so that eight neighbours of them begin in different banks.
    static constexpr int ROWS = KMAJOR ? EXTENT : BK, RUN = KMAJOR ? BK : EXTENT;
    static constexpr int PITCH = KMAJOR ? BK + 2 : EXTENT;
    static constexpr int SIZE = ROWS * PITCH;
    // It is copied in rounds: RUN / VEC threads along a row, DOWN rows at once.
    static constexpr int DOWN = THREADS / (RUN / VEC), ROUNDS = ROWS / DOWN;
    static_assert(THREADS % (RUN / VEC) == 0 && ROWS % DOWN == 0, "rounds are whole");

    const int row, run;  // where in a slab this thread copies first
    const int extent, ld;  // rows or columns from the first of this block on; values from a row to the next
    const float2 *from;  // what it copies there, of the slab that comes next

    __device__ __forceinline__ Operand(const float2 *base, int first, int extent, int ld)
        : row(threadIdx.x / (RUN / VEC)), run(threadIdx.x % (RUN / VEC) * VEC), extent(extent - first), ld(ld),
          from(base + (KMAJOR ? (first + row) * ld + run : row * ld + first + run)) {}

    // Starts to copy the next slab to an address in shared memory. `left` of its steps lie within the depth; zeros
    // stand for all that is outside.
    __device__ __forceinline__ void fetch(unsigned slab, int left) {
        const int rows = (KMAJOR ? run < left : run < extent) ? (KMAJOR ? extent : left) - row : 0;
        const unsigned to = slab + (row * PITCH + run) * sizeof(float2);
        const float2 *here = from;
#pragma unroll
        for (int round = 0; round < ROUNDS; ++round, here += DOWN * (long long)ld)
            copy_async<VEC>(to + round * DOWN * PITCH * sizeof(float2), here, round * DOWN < rows);
        from += KMAJOR ? BK : BK * ld;
    }

    // Element i of thread t: threads apart, or in pairs of neighbours where 16 bytes are two of them.
    static constexpr __host__ __device__ int element(int i) { return KMAJOR ? i * COUNT : i / 2 * 2 * COUNT + i % 2; }
    static __device__ __forceinline__ int first_element(int t) { return KMAJOR ? t : 2 * t; }
    static __device__ __forceinline__ int first_value(int t) { return KMAJOR ? t * PITCH : 2 * t; }  // in a slab

    // A thread's elements at steps k and k + 1, of a slab that begins with its own first value.
    static __device__ __forceinline__ void load(float2 (&of)[2][OWN], const float2 *slab, int k) {
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const int step = i % 2, e = i - step;  // where a load is two elements, of one step
            const float2 *at = KMAJOR ? slab + element(i) * PITCH + k : slab + (k + step) * PITCH + element(e);
            const float4 v = *reinterpret_cast<const float4 *>(at);
            float2 &first = KMAJOR ? of[0][i] : of[step][e], &second = KMAJOR ? of[1][i] : of[step][e + 1];
            first = {v.x, v.y};
            second = {v.z, v.w};
        }
    }
};

// ---- the kernel -----------------------------------------------------------------------------------------------------

template <bool CONJ_A, bool CONJ_B>
__device__ __forceinline__ void multiply_add(float2 &sum, float2 a, float2 b) {
    if (CONJ_A) a.y = -a.y;
    if (CONJ_B) b.y = -b.y;
    sum.x = fmaf(a.x, b.x, sum.x);
    sum.x = fmaf(-a.y, b.y, sum.x);
    sum.y = fmaf(a.x, b.y, sum.y);
    sum.y = fmaf(a.y, b.x, sum.y);
}

// Groups own runs of columns of A. With A k-major those are the depth, Y has a run of columns for each too, and B rows;
// else (the gradient of weights) they are the rows of the product, so Y has rows for each group, and B columns.
// VEC: values of a copy, 2 where all addresses and extents are even. BLOCKS: of a multiprocessor at once.
template <int BM, int BN, int TM, int TN, int BK, int STAGES, bool A_KMAJOR, bool B_KMAJOR, bool CONJ_A, bool CONJ_B,
          int VEC, int BLOCKS>
__global__ void __launch_bounds__(BM *BN / (TM * TN), BLOCKS)
    product(const float2 *__restrict__ gA, const float2 *__restrict__ gB, float2 *__restrict__ gY, Shape shape,
            Pitches pitches) {
    constexpr int THREADS = BM * BN / (TM * TN);
    using A = Operand<BM, TM, BK, A_KMAJOR, VEC, THREADS>;
    using B = Operand<BN, TN, BK, B_KMAJOR, VEC, THREADS>;
    constexpr int SLAB = A::SIZE + B::SIZE;
    constexpr int PAIRED = VEC == 2 && !B_KMAJOR ? 2 : 1;  // columns that are stored together
    extern __shared__ float4 shared[];
    float2 *ring = reinterpret_cast<float2 *>(shared);

    // Bin and group; where they begin takes 64 bits, the rest of the way 32 are enough.
    const unsigned f = blockIdx.z / unsigned(shape.groups), group = blockIdx.z % unsigned(shape.groups);
    const long long group_a = A_KMAJOR ? shape.depth : shape.rows;
    const long long group_b = B_KMAJOR ? shape.columns * (long long)shape.ldb
                              : A_KMAJOR ? shape.depth * (long long)shape.ldb : shape.columns;
    const long long group_y = A_KMAJOR ? shape.columns : shape.rows * (long long)shape.ldy;
    const float2 *const bin_a = gA + f * pitches.a + group * group_a;
    const float2 *const bin_b = gB + f * pitches.b + group * group_b;
    float2 *const bin_y = gY + f * pitches.y + group * group_y;

    // Which sums are this thread's: warps row by row, their lanes along a Z-curve.
    constexpr int LANES = B::COUNT % 8 ? 4 : 8;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int x = LANES == 8 ? (lane & 1) | (lane >> 1 & 6) : (lane & 1) | (lane >> 1 & 2);
    const int y = LANES == 8 ? (lane >> 1 & 1) | (lane >> 3 & 2) : (lane >> 1 & 1) | (lane >> 2 & 6);
    const int tx = warp % (B::COUNT / LANES) * LANES + x, ty = warp / (B::COUNT / LANES) * (32 / LANES) + y;

    A a(bin_a, blockIdx.y * BM, shape.rows, shape.lda);
    B b(bin_b, blockIdx.x * BN, shape.columns, shape.ldb);
    int left = shape.depth;  // steps that have not been asked for
    const unsigned ring_address = unsigned(__cvta_generic_to_shared(ring));
    int fill = 0, use = 0;  // slabs of the ring, in values
    const auto fetch = [&] {
        if (left > 0) {
            a.fetch(ring_address + fill * sizeof(float2), left);
            b.fetch(ring_address + (fill + A::SIZE) * sizeof(float2), left);
        }
        commit_copies();  // an empty group counts as well
        left -= BK;
        fill = fill == (STAGES - 1) * SLAB ? 0 : fill + SLAB;
    };
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage) fetch();

    const int m = blockIdx.y * BM + A::first_element(ty), n = blockIdx.x * BN + B::first_element(tx);
    float2 sum[TM][TN];
#pragma unroll
    for (int i = 0; i < TM; ++i) {
#pragma unroll
        for (int j = 0; j < TN; ++j) {
            const int row = m + A::element(i), column = n + B::element(j);
            sum[i][j] = {0, 0};
            if (shape.accumulate && row < shape.rows && column < shape.columns) {
                const float2 old = bin_y[row * shape.ldy + column];
                sum[i][j] = {2 * old.x, 2 * old.y};
            }
        }
    }

    while (left > -(STAGES - 1) * BK) {
        wait_copies<STAGES - 2>();
        __syncthreads();  // the slab in use is there, and the one to fill has been read by all
        fetch();
        const float2 *slab_a = ring + use + A::first_value(ty), *slab_b = ring + use + A::SIZE + B::first_value(tx);
        use = use == (STAGES - 1) * SLAB ? 0 : use + SLAB;
#pragma unroll
        for (int k = 0; k < BK; k += 2) {
            float2 of_a[2][TM], of_b[2][TN];
            A::load(of_a, slab_a, k);
            B::load(of_b, slab_b, k);
#pragma unroll
            for (int step = 0; step < 2; ++step)
#pragma unroll
                for (int i = 0; i < TM; ++i)
#pragma unroll
                    for (int j = 0; j < TN; ++j) multiply_add<CONJ_A, CONJ_B>(sum[i][j], of_a[step][i], of_b[step][j]);
        }
    }

#pragma unroll
    for (int i = 0; i < TM; ++i) {
        const int row = m + A::element(i);
        float2 *const to = bin_y + row * shape.ldy + n;
#pragma unroll
        for (int j = 0; j < TN; j += PAIRED) {
            const bool inside = row < shape.rows && n + B::element(j) < shape.columns;
            const float2 half = {0.5f * sum[i][j].x, 0.5f * sum[i][j].y};
            if constexpr (PAIRED == 2) {  // both are inside, or both outside
                const float2 next = {0.5f * sum[i][j + 1].x, 0.5f * sum[i][j + 1].y};
                if (inside) *reinterpret_cast<float4 *>(to + B::element(j)) = {half.x, half.y, next.x, next.y};
            } else {
                if (inside) to[B::element(j)] = half;
            }
        }
    }
}
