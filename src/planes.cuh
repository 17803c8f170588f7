// Columns of planes: which sample of an array lies where in a tile of T x T.
//
// Plane p of a launch is channel c = p % channels of row m = first + p / channels, and m counts (outer index, segment
// down, segment across). On each axis, sample i lies at position t of segment g of the tile where
//
//     t + start + g * advance == i * spacing   and   first <= t < limit
//
// and no sample lies anywhere else. Padding, stride, dilation and overlapping windows are nothing but these numbers.
//
// The structs are kernel arguments, passed by value, with the bytes that their fields have one by one.
//
// Costs: three divisions a thread find the plane of a pair, a counter the next; then a sample costs a test of a bit, an
// addition of 64 bits and its access.
//
// Example: 100 samples in windows of T = 32 that advance by 28, with start 0 and spacing 1. The window of g = 1 holds
// samples 28 to 59; that of g = 3 begins at sample 84, holds the last 16, and zeros at positions 16 to 31.
#pragma once

struct Planes {
    unsigned count;  // of this launch
    unsigned first;  // row m of plane 0 of this launch
    unsigned channels;
    unsigned height;  // samples of a plane
    unsigned width;
    unsigned segments_down;
    unsigned segments_across;
    unsigned has_bias;  // read by the inverse alone
};

struct Strides {  // between neighbours, in elements, of any sign
    long long outer;
    long long channel;
    long long row;
    long long column;
    long long pitch;  // from a bin of the spectrum to the next, positive
};

struct AxisMap {
    int start;
    int advance;
    int spacing;
    int first;
    int limit;
};

struct Epilogue {  // y = scale * (what the inverse made) + bias + beta * (old y)
    float scale;
    float beta;
};

static_assert(sizeof(Planes) == 8 * sizeof(unsigned) && alignof(Planes) == 4, "fields lie one behind the other");
static_assert(sizeof(Strides) == 5 * sizeof(long long) && alignof(Strides) == 8, "fields lie one behind the other");
static_assert(sizeof(AxisMap) == 5 * sizeof(int) && alignof(AxisMap) == 4, "fields lie one behind the other");
static_assert(sizeof(Epilogue) == 2 * sizeof(float) && alignof(Epilogue) == 4, "fields lie one behind the other");

// ---- planes ---------------------------------------------------------------------------------------------------------

// Where a plane lies in the array: counters from the slowest to the fastest.
struct Place {
    unsigned outer, down, across, channel;

    __device__ __forceinline__ Place(const Planes &planes, unsigned p) {
        const unsigned row = p / planes.channels, m = planes.first + row, strip = m / planes.segments_across;
        outer = strip / planes.segments_down;
        down = strip - outer * planes.segments_down;
        across = m - strip * planes.segments_across;
        channel = p - row * planes.channels;
    }

    // The place of the plane that follows.
    __device__ __forceinline__ Place next(const Planes &planes) const {
        Place after = *this;
        if (++after.channel == planes.channels) after.channel = 0, ++after.across;
        if (after.across == planes.segments_across) after.across = 0, ++after.down;
        if (after.down == planes.segments_down) after.down = 0, ++after.outer;
        return after;
    }
};

// ---- columns --------------------------------------------------------------------------------------------------------

template <bool LONG> struct Bits { using type = unsigned; };
template <> struct Bits<true> { using type = unsigned long long; };

// Column j of a plane: which positions hold samples, and a walk over them from the top. A column of a plane that does
// not exist holds none, and its pointer means nothing.
template <typename Float, int T, bool SPACED>
struct Column {
    using Mask = typename Bits<(T > 32)>::type;
    Mask held;  // bit r: position r holds a sample
    Float *sample;  // of the position that the walk has come to

    __device__ __forceinline__ Column(Float *array, const Planes &planes, const Strides &strides, const AxisMap &rows,
                                      const AxisMap &columns, const Place &place, bool exists, int j) {
        // Sample (y, x) is the first that the walk meets, at position `begin`; position 0 is where y would be `top`.
        int x = j + columns.start + int(place.across) * columns.advance;
        bool inside = exists && x >= 0 && j >= columns.first && j < columns.limit;
        const int top = rows.start + int(place.down) * rows.advance;
        int begin = max(rows.first, -top), end = min(rows.limit, int(planes.height) - top), y = top;
        Mask positions = ~Mask(0);
        if (SPACED) {
            const int i = unsigned(x) / columns.spacing;
            inside = inside && i * columns.spacing == x;
            x = i;
            y = unsigned(begin + top + rows.spacing - 1) / rows.spacing;
            begin = y * rows.spacing - top;
            end = min(rows.limit, (int(planes.height) - 1) * rows.spacing - top + 1);
            positions = 1;
            for (int apart = rows.spacing; apart < T; apart *= 2) positions |= positions << apart;
        }
        inside = inside && x < int(planes.width) && begin < end;
        held = inside ? (positions << begin) & (~Mask(0) >> (8 * sizeof(Mask) - end)) : 0;
        sample = array + place.outer * strides.outer + place.channel * strides.channel;
        sample += y * strides.row + x * strides.column;
    }

    __device__ __forceinline__ bool holds(int r) const { return held >> r & 1; }

    // From position r to the next: past each position, or where samples are spaced past each sample.
    __device__ __forceinline__ void step(int r, long long row) { sample += !SPACED || holds(r) ? row : 0; }
};
