// Row functions over registers of 32-bit lanes. Included by one file per instruction set and compiled with that file's
// flags, so all of it is in an anonymous namespace and calls nothing that another file might share.
//
// `V` is the instruction set. Masks are one truth value a lane; functions without a type are of int32 and of float.
//   kLanes; Ints, Floats, Mask
//   load(from), store(to, a), all(number)
//   turned(a, turn)                   -a where turn is -1, a where it is 0
//   fails(threshold, a)               not threshold <= a: true of NaN
//   greater(a, b), equal(a, b)        of int32
//   same(m, n), both(m, n), either(m, n), any(m)
//   from_bits(word), word(masks)      the first lane is the lowest bit; word() has the masks of 32 channels
//   choose(m, a, b)                   a where true, else b
//   minus_one(a, m)                   a - 1 where true
//   lane_numbers(), times_channels(a) 0, 1, ... and 32 * a
//   gather(from, index)               from[index] in each lane
//   add, subtract, multiply, divide, smallest, largest: where either is NaN the last two give b
//   magnitude(a), to_float(a), to_nearest(a): half to even; any int32 for what none holds
//   store_bytes(to, numbers)          kLanes numbers 0..255 to as many bytes
#pragma once

#include "kernel.h"
#include "row_functions.h"
#include "unroll.h"

namespace bitlens {
namespace {

template <class V>
struct Rows {
    static constexpr int kRegisters = kWord / V::kLanes;

    using Ints = typename V::Ints;
    using Floats = typename V::Floats;
    using Mask = typename V::Mask;
    template <class T>
    using Register = decltype(V::load(static_cast<const T*>(nullptr)));

    // 32 channels of a pixel.
    template <class T>
    struct Pixel {
        Register<T> part[kRegisters];

        explicit Pixel(const T* from) {
            BITLENS_UNROLL
            for (int r = 0; r < kRegisters; ++r) part[r] = V::load(from + r * V::kLanes);
        }

        Pixel(const T* from, const Pixel<std::int32_t>& turn) {
            BITLENS_UNROLL
            for (int r = 0; r < kRegisters; ++r) part[r] = V::turned(V::load(from + r * V::kLanes), turn.part[r]);
        }
    };

    // A bit per channel: threshold <= value.
    template <class T>
    static std::uint32_t passed(const Pixel<T>& threshold, const Pixel<T>& value) {
        Mask failed[kRegisters];
        BITLENS_UNROLL
        for (int r = 0; r < kRegisters; ++r) failed[r] = V::fails(threshold.part[r], value.part[r]);
        return ~V::word(failed);
    }

    // Writes the straight-through mask, where there is one.
    template <class T>
    struct Box {
        explicit Box(const Quantizer<T>& quantizer)
            : exists(quantizer.mask_low),
              low(exists ? quantizer.mask_low : quantizer.thresholds),
              high(exists ? quantizer.mask_high : quantizer.thresholds) {}

        void write(const Pixel<T>& value, std::uint32_t* mask, std::ptrdiff_t place) const {
            if (!exists) return;
            Mask outside[kRegisters];
            BITLENS_UNROLL
            for (int r = 0; r < kRegisters; ++r)
                outside[r] = V::either(V::fails(low.part[r], value.part[r]), V::fails(value.part[r], high.part[r]));
            mask[place] = ~V::word(outside);
        }

        bool exists;
        Pixel<T> low, high;
    };

    template <class T>
    static void bits(const T* sums, std::ptrdiff_t sums_step, int pixels, const Quantizer<T>& quantizer,
                     std::uint32_t* words, std::ptrdiff_t words_step, std::uint32_t* mask, std::ptrdiff_t mask_step) {
        const Pixel<std::int32_t> turn(quantizer.turn);
        const Pixel<T> threshold(quantizer.thresholds);
        const Box<T> box(quantizer);
        for (int p = 0; p < pixels; ++p, sums += sums_step) {
            const Pixel<T> value(sums, turn);
            words[p * words_step] = passed(threshold, value);
            box.write(value, mask, p * mask_step);
        }
    }

    template <class T>
    static void planes(const T* sums, std::ptrdiff_t sums_step, int pixels, const Quantizer<T>& quantizer,
                       std::uint32_t* words, std::ptrdiff_t words_step, std::uint32_t* mask,
                       std::ptrdiff_t mask_step) {
        const Pixel<std::int32_t> turn(quantizer.turn);
        const Pixel<T> first(quantizer.thresholds), second(quantizer.thresholds + kWord),
            third(quantizer.thresholds + 2 * kWord);
        const Box<T> box(quantizer);
        for (int p = 0; p < pixels; ++p, sums += sums_step) {
            const Pixel<T> value(sums, turn);
            const std::uint32_t two = passed(second, value);
            words[p * words_step] = (passed(first, value) & ~two) | passed(third, value);
            words[p * words_step + 1] = two;
            box.write(value, mask, p * mask_step);
        }
    }

    // How many thresholds each lane of register `r` passes. Few levels: comparing with every one.
    template <class T>
    struct Counting {
        static constexpr int kMostLevels = 32;

        Counting(const Quantizer<T>& quantizer, int r)
            : thresholds(quantizer.thresholds + r * V::kLanes), levels(quantizer.levels) {}

        Ints count(Register<T> value) const {
            Ints count = V::all(levels);
            const T* threshold = thresholds;
            for (int level = 0; level < levels; ++level, threshold += kWord)
                count = V::minus_one(count, V::fails(V::load(threshold), value));
            return count;
        }

        const T* thresholds;
        int levels;
    };

    // The same for 2^n - 1 levels: n comparisons, each of which leaves half of the thresholds.
    template <class T, int levels>
    struct Halving {
        Halving(const Quantizer<T>& quantizer, int r) {
            BITLENS_UNROLL
            for (int level = 0; level < levels; ++level)
                thresholds[level] = V::load(quantizer.thresholds + level * kWord + r * V::kLanes);
        }

        Ints count(Register<T> value) const {
            Register<T> left[levels];
            BITLENS_UNROLL
            for (int level = 0; level < levels; ++level) left[level] = thresholds[level];
            Ints count = V::all(levels);
            BITLENS_UNROLL
            for (int half = (levels + 1) / 2; half > 0; half /= 2) {
                const Mask down = V::fails(left[half - 1], value);
                count = V::choose(down, V::subtract(count, V::all(half)), count);
                BITLENS_UNROLL
                for (int level = 0; level < half - 1; ++level)
                    left[level] = V::choose(down, left[level], left[half + level]);
            }
            return count;
        }

        Register<T> thresholds[levels];
    };

    // The same for many levels. The thresholds of a uniform quantizer lie near a line: it gives a guess, and two
    // comparisons prove it right. Where they do not, because thresholds lie otherwise, a bisection finds the answer.
    template <class T>
    struct Searching {
        Searching(const Quantizer<T>& quantizer, int r)
            : thresholds(quantizer.thresholds + r * V::kLanes), levels(quantizer.levels) {
            // Not the outermost thresholds: those may be cut off at the largest number there is.
            const int low = levels / 4, high = levels - 1 - levels / 4;
            origin = real(V::load(thresholds + low * kWord));
            const Floats reach = V::subtract(real(V::load(thresholds + high * kWord)), origin);
            slope = V::divide(V::all(float(high - low)), reach);
            intercept = V::all(float(low));
        }

        Ints count(Register<T> value) const {
            const Floats place = V::add(V::multiply(V::subtract(real(value), origin), slope), intercept);
            // The nearest threshold, so that the answer is `guess` or `above`.
            const Ints guess = inside(V::to_nearest(place)), above = V::add(guess, V::all(1));
            const Mask down = V::fails(threshold(guess), value);
            const Ints other = V::choose(down, V::subtract(guess, V::all(1)), above), next = inside(other);
            const Mask wrong = V::both(V::same(down, V::fails(threshold(next), value)), V::equal(other, next));
            if (__builtin_expect(V::any(wrong), 0)) return bisected(value);
            return V::minus_one(above, down);
        }

        Ints bisected(Register<T> value) const {
            Ints count = V::all(0);
            for (int step = 128; step > 0; step /= 2) {
                const Ints more = V::add(count, V::all(step));
                const Mask missing = V::fails(more, V::all(levels));
                const Ints last = V::choose(missing, V::all(0), V::subtract(more, V::all(1)));
                count = V::choose(V::either(missing, V::fails(threshold(last), value)), count, more);
            }
            return count;
        }

        Ints inside(Ints level) const { return V::smallest(V::largest(level, V::all(0)), V::all(levels - 1)); }

        Register<T> threshold(Ints level) const {
            return V::gather(thresholds, V::add(V::times_channels(level), V::lane_numbers()));
        }

        const T* thresholds;
        int levels;
        Floats origin, slope, intercept;
    };

    // The same where a line leaves few values in doubt: no threshold is loaded.
    template <class T>
    struct OnLine {
        OnLine(const Quantizer<T>& quantizer, int r)
            : search(quantizer, r),
              slope(V::load(quantizer.line->slope + r * V::kLanes)),
              intercept(V::load(quantizer.line->intercept + r * V::kLanes)),
              passes(V::all(quantizer.line->passes)),
              fails(V::all(quantizer.line->fails)),
              end(V::all(float(quantizer.levels) - 0.75f)) {}

        Ints count(Register<T> value) const {
            const Floats place = V::add(V::multiply(real(value), slope), intercept);
            const Floats inside = V::smallest(V::largest(place, V::all(-0.25f)), end);  // NaN: -0.25
            const Ints level = V::to_nearest(inside);
            const Floats beyond = V::subtract(inside, V::to_float(level));
            const Mask down = V::fails(passes, beyond);
            if (__builtin_expect(V::any(V::both(down, V::fails(beyond, fails))), 0)) return search.count(value);
            return V::minus_one(V::add(level, V::all(1)), down);
        }

        Searching<T> search;
        Floats slope, intercept, passes, fails, end;
    };

    static Floats real(Floats value) { return value; }
    static Floats real(Ints value) { return V::to_float(value); }

    template <class T, class How>
    static void codes_by(const T* sums, std::ptrdiff_t sums_step, int pixels, const Quantizer<T>& quantizer,
                         int code_step, int channels, std::uint8_t* codes, std::ptrdiff_t codes_step) {
        const Ints step = V::all(code_step);
        for (int r = 0; r * V::kLanes < channels; ++r) {
            const int first = r * V::kLanes, left = channels - first;
            const Ints turn = V::load(quantizer.turn + first);
            const How how(quantizer, r);
            for (int p = 0; p < pixels; ++p) {
                const Ints count = how.count(V::turned(V::load(sums + p * sums_step + first), turn));
                store_some(codes + p * codes_step + first, V::multiply(count, step), left);
            }
        }
    }

    template <class T>
    static void codes(const T* sums, std::ptrdiff_t sums_step, int pixels, const Quantizer<T>& quantizer,
                      int code_step, int channels, std::uint8_t* codes, std::ptrdiff_t codes_step, std::uint32_t* mask,
                      std::ptrdiff_t mask_step) {
        const int levels = quantizer.levels;
        const auto by = quantizer.line                       ? codes_by<T, OnLine<T>>
                        : levels == 15                       ? codes_by<T, Halving<T, 15>>
                        : levels == 7                        ? codes_by<T, Halving<T, 7>>
                        : levels == 3                        ? codes_by<T, Halving<T, 3>>
                        : levels <= Counting<T>::kMostLevels ? codes_by<T, Counting<T>>
                                                             : codes_by<T, Searching<T>>;
        by(sums, sums_step, pixels, quantizer, code_step, channels, codes, codes_step);
        if (!quantizer.mask_low) return;
        const Pixel<std::int32_t> turn(quantizer.turn);
        const Box<T> box(quantizer);
        for (int p = 0; p < pixels; ++p) box.write(Pixel<T>(sums + p * sums_step, turn), mask, p * mask_step);
    }

    static void store_some(std::uint8_t* to, Ints numbers, int count) {
        if (count >= V::kLanes) return V::store_bytes(to, numbers);
        std::uint8_t bytes[V::kLanes];
        V::store_bytes(bytes, numbers);
        __builtin_memcpy(to, bytes, std::size_t(count));
    }

    template <bool indexed>
    static void max_pool(const std::int32_t* sums, std::ptrdiff_t sums_step, std::ptrdiff_t row_step, int kernel_high,
                         int kernel_wide, int stride_wide, int pixels, const std::int32_t* turns, std::int32_t* pooled,
                         std::uint8_t* index, std::ptrdiff_t index_step) {
        const Pixel<std::int32_t> turn(turns);
        for (int p = 0; p < pixels; ++p, sums += stride_wide * sums_step, pooled += kWord) {
            Pixel<std::int32_t> best(sums, turn);
            Ints winner[kRegisters];
            BITLENS_UNROLL
            for (int r = 0; r < kRegisters; ++r) winner[r] = V::all(0);
            for (int y = 0, place = 0; y < kernel_high; ++y)
                for (int x = 0; x < kernel_wide; ++x, ++place) {
                    const Pixel<std::int32_t> value(sums + y * row_step + x * sums_step, turn);
                    BITLENS_UNROLL
                    for (int r = 0; r < kRegisters; ++r) {
                        if (indexed)
                            winner[r] = V::choose(V::greater(value.part[r], best.part[r]), V::all(place), winner[r]);
                        best.part[r] = V::largest(value.part[r], best.part[r]);
                    }
                }
            BITLENS_UNROLL
            for (int r = 0; r < kRegisters; ++r) {
                V::store(pooled + r * V::kLanes, V::turned(best.part[r], turn.part[r]));
                if (indexed) V::store_bytes(index + p * index_step + r * V::kLanes, winner[r]);
            }
        }
    }

    static void max_pool_i32(const std::int32_t* sums, std::ptrdiff_t sums_step, std::ptrdiff_t row_step,
                             int kernel_high, int kernel_wide, int stride_wide, int pixels, const std::int32_t* turn,
                             std::int32_t* pooled, std::uint8_t* index, std::ptrdiff_t index_step) {
        (index ? max_pool<true> : max_pool<false>)(sums, sums_step, row_step, kernel_high, kernel_wide, stride_wide,
                                                   pixels, turn, pooled, index, index_step);
    }

    template <class T>
    static void affine(const T* sums, std::ptrdiff_t sums_step, int pixels, const float* slope, const float* offset,
                       const float* addend, std::ptrdiff_t addend_step, int channels, float* out,
                       std::ptrdiff_t out_step) {
        for (int c = 0; c < channels; c += V::kLanes) {
            const Floats slopes = V::load(slope + c), offsets = V::load(offset + c);
            for (int p = 0; p < pixels; ++p) {
                const Floats sum = real(V::load(sums + p * sums_step + c));
                Floats value = V::add(V::multiply(sum, slopes), offsets);
                if (addend) value = V::add(value, V::load(addend + p * addend_step + c));
                V::store(out + p * out_step + c, value);
            }
        }
    }

    static void ste_gradient(const float* gradient, std::ptrdiff_t gradient_step, int pixels,
                             const std::uint32_t* mask, std::ptrdiff_t mask_step, float floor, const float* gain,
                             int channels, float* out, std::ptrdiff_t out_step) {
        const Floats least = V::all(floor), zero = V::all(0.0f);
        for (int c = 0; c < channels; c += V::kLanes) {
            const Floats gains = V::load(gain + c);
            for (int p = 0; p < pixels; ++p) {
                const Floats value = V::largest(V::load(gradient + p * gradient_step + c), least);
                const Mask passes = V::from_bits(mask[p * mask_step] >> c);
                V::store(out + p * out_step + c, V::choose(passes, V::multiply(value, gains), zero));
            }
        }
    }

    static void add(const float* left, const float* right, std::size_t count, float* out) {
        std::size_t i = 0;
        for (; i + V::kLanes <= count; i += V::kLanes) V::store(out + i, V::add(V::load(left + i), V::load(right + i)));
        for (; i < count; ++i) out[i] = left[i] + right[i];
    }

    static float largest_magnitude(const float* values, std::size_t count) {
        Floats most[kRegisters];
        BITLENS_UNROLL
        for (int r = 0; r < kRegisters; ++r) most[r] = V::all(0.0f);
        std::size_t i = 0;
        for (; i + kWord <= count; i += kWord) {
            BITLENS_UNROLL
            for (int r = 0; r < kRegisters; ++r)
                most[r] = V::largest(V::magnitude(V::load(values + i + r * V::kLanes)), most[r]);
        }
        float lanes[kWord];
        BITLENS_UNROLL
        for (int r = 0; r < kRegisters; ++r) V::store(lanes + r * V::kLanes, most[r]);
        float largest = 0.0f;
        for (float lane : lanes) largest = lane > largest ? lane : largest;
        for (; i < count; ++i) largest = __builtin_fabsf(values[i]) > largest ? __builtin_fabsf(values[i]) : largest;
        return largest;
    }

    static Ints quantized(const float* values, Floats inverse_scale) {
        const Floats value = V::multiply(V::load(values), inverse_scale);
        const Floats clipped = V::smallest(V::largest(value, V::all(-127.0f)), V::all(127.0f));  // NaN: -127
        return V::add(V::to_nearest(clipped), V::all(128));
    }

    static void quantize(const float* values, std::size_t count, float inverse_scale, std::uint8_t* out) {
        const Floats inverse = V::all(inverse_scale);
        std::size_t i = 0;
        for (; i + V::kLanes <= count; i += V::kLanes) V::store_bytes(out + i, quantized(values + i, inverse));
        if (i == count) return;
        float rest[V::kLanes] = {};
        __builtin_memcpy(rest, values + i, (count - i) * sizeof *rest);
        store_some(out + i, quantized(rest, inverse), int(count - i));
    }

    static constexpr RowFunctions functions(const char* isa, bool (*runs_on)(const Cpu&)) {
        return {
            isa,
            runs_on,
            {bits<std::int32_t>, planes<std::int32_t>, codes<std::int32_t>},
            {bits<float>, planes<float>, codes<float>},
            max_pool_i32,
            affine<std::int32_t>,
            affine<float>,
            ste_gradient,
            add,
            largest_magnitude,
            quantize,
        };
    }
};

}  // namespace
}  // namespace bitlens
