#include "kernel_bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "checks.h"
#include "kernel_list.h"
#include "quantizer_line.h"

namespace nb = nanobind;

namespace bitlens {
namespace {

template <class T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

struct FreeAligned {
    void operator()(void* memory) const { std::free(memory); }
};

std::unique_ptr<void, FreeAligned> aligned(std::size_t bytes) {
    void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory) throw std::bad_alloc();
    return std::unique_ptr<void, FreeAligned>(memory);
}

const SumKernel& sum_kernel(const std::string& family, const std::string& isa, std::size_t block) {
    for (const SumKernel& kernel : sum_kernels())
        if (family == kernel.family && isa == kernel.isa && block == std::size_t(kernel.block)) {
            expect(kernel.runs_on(this_cpu()), "this processor lacks the instructions of that kernel");
            return kernel;
        }
    throw std::invalid_argument("no kernel " + family + "__" + isa + " of " + std::to_string(block) + " channels");
}

const RowFunctions& functions(const std::string& isa) {
    for (const RowFunctions& table : row_functions())
        if (isa == table.isa) {
            expect(table.runs_on(this_cpu()), "this processor lacks the instructions of those row functions");
            return table;
        }
    throw std::invalid_argument("no row functions rows__" + isa);
}

const ExpandKernel& expander(const std::string& isa) {
    for (const ExpandKernel& kernel : expand_kernels())
        if (isa == kernel.isa) {
            expect(kernel.runs_on(this_cpu()), "this processor lacks the instructions of that kernel");
            return kernel;
        }
    throw std::invalid_argument("no kernel expand__" + isa);
}

std::size_t bytes_of_group(const std::string& family) { return family == "conv2d_w2a2" ? 8 : 4; }

// `weights`: canonical words of one block for bit families, a panel otherwise; all as bytes. The length of `start` tells
// kernels of different blocks apart.
void sum_row(const std::string& family, const std::string& isa, Vector<const std::uint8_t> source,
             std::int64_t row_pitch, std::int64_t tap_step, std::int64_t pixel_step, int taps_high, int taps_wide,
             int groups, int pixels, Vector<const std::uint8_t> weights, Vector<const std::uint8_t> start,
             Vector<std::uint8_t> sums, int repeats) {
    const SumKernel& kernel = sum_kernel(family, isa, start.size() / 4);
    const std::int64_t side = 1 << 20;
    expect(taps_high > 0 && taps_wide > 0 && groups > 0 && pixels > 0, "a row has at least one tap, group and pixel");
    expect(taps_high < side && taps_wide < side && groups < side && pixels < side, "the row is too large");
    expect(row_pitch >= 0 && tap_step >= 0 && pixel_step >= 0 && row_pitch < side * 64 && tap_step < side &&
               pixel_step < side,
           "pitch and steps are not negative and not huge");
    const std::size_t last = std::size_t(taps_high - 1) * std::size_t(row_pitch) +
                             std::size_t(taps_wide - 1) * std::size_t(tap_step) +
                             std::size_t(pixels - 1) * std::size_t(pixel_step) +
                             std::size_t(groups) * bytes_of_group(family);
    expect(last <= source.size(), "the source is too short");
    const int taps = taps_high * taps_wide;
    const std::size_t block = std::size_t(kernel.block);
    const std::size_t per_channel = family == "conv2d_f32" ? 4 : bytes_of_group(family);
    expect(weights.size() == std::size_t(taps) * std::size_t(groups) * block * per_channel, "weights of another length");
    expect(start.size() == block * 4, "start of another length");
    expect(sums.size() == std::size_t(pixels) * block * 4, "sums of another length");
    const std::size_t packed_bytes = kernel.pack ? kernel.packed_bytes(taps, groups) : weights.size();
    const auto packed = aligned(packed_bytes);
    if (kernel.pack)
        kernel.pack(weights.data(), taps, groups, packed.get());
    else
        std::memcpy(packed.get(), weights.data(), packed_bytes);
    const Row row{source.data(), row_pitch, tap_step, pixel_step, taps_high, taps_wide, groups, pixels};
    for (int i = 0; i < repeats; ++i) {
        if (kernel.run)
            kernel.run(row, packed.get(), reinterpret_cast<const std::int32_t*>(start.data()),
                       reinterpret_cast<std::int32_t*>(sums.data()));
        else
            kernel.run_f32(row, packed.get(), reinterpret_cast<const float*>(start.data()),
                           reinterpret_cast<float*>(sums.data()));
    }
}

template <class T>
void threshold_row(const ThresholdFunctions<T>& table, const std::string& form, Vector<const T> sums, int sums_step,
                   int levels, Vector<const std::int32_t> turn, Vector<const T> thresholds, Vector<const T> mask_low,
                   Vector<const T> mask_high, int code_step, int channels, Vector<std::uint8_t> out, int out_step,
                   Vector<std::uint32_t> mask, int mask_step) {
    expect(sums_step >= kWord && sums.size() % std::size_t(sums_step) == 0 && sums.size(), "sums of another length");
    const std::size_t pixels = sums.size() / std::size_t(sums_step);
    expect(levels >= 1 && levels <= 255 && thresholds.size() == std::size_t(levels) * kWord && turn.size() == kWord,
           "thresholds of another length");
    const bool masked = mask_low.size() != 0;
    expect(mask_low.size() == mask_high.size() && (!masked || mask_low.size() == kWord), "mask box of another length");
    expect(!masked || (mask_step >= 1 && mask.size() == pixels * std::size_t(mask_step)), "mask of another length");
    QuantizerLine line;
    const bool lies = levels >= kFewestLevelsOfLine && fit_line(thresholds.data(), levels, std::min(channels, kWord), line);
    const Quantizer<T> quantizer{levels, turn.data(), thresholds.data(), masked ? mask_low.data() : nullptr,
                                 masked ? mask_high.data() : nullptr, lies ? &line : nullptr};
    const int count = static_cast<int>(pixels);
    if (form == "codes") {
        expect(channels >= 4 && channels <= kWord && channels % 4 == 0 && out_step >= channels, "steps do not fit");
        expect(code_step >= 1 && code_step * levels <= 255, "codes exceed a byte");
        expect(out.size() == pixels * std::size_t(out_step), "codes of another length");
        table.codes(sums.data(), sums_step, count, quantizer, code_step, channels, out.data(), out_step, mask.data(),
                    mask_step);
        return;
    }
    const bool is_bits = form == "bits";
    expect(is_bits ? levels == 1 : form == "planes" && levels == 3, "the form does not fit the levels");
    expect(out_step >= (is_bits ? 1 : 2) && out.size() == pixels * std::size_t(out_step) * 4, "words of another length");
    (is_bits ? table.bits : table.planes)(sums.data(), sums_step, count, quantizer,
                                          reinterpret_cast<std::uint32_t*>(out.data()), out_step, mask.data(),
                                          mask_step);
}

void max_pool_row(const std::string& isa, Vector<const std::int32_t> sums, int sums_step, int row_pixels,
                  int kernel_high, int kernel_wide, int stride_wide, int pixels, Vector<const std::int32_t> turn,
                  Vector<std::int32_t> pooled, Vector<std::uint8_t> index, int index_step) {
    expect(sums_step >= kWord && kernel_high > 0 && kernel_wide > 0 && stride_wide > 0 && pixels > 0 && row_pixels > 0 &&
               kernel_high * kernel_wide <= 255 && (pixels - 1) * stride_wide + kernel_wide <= row_pixels,
           "the window does not fit");
    expect(sums.size() == std::size_t(kernel_high) * std::size_t(row_pixels) * std::size_t(sums_step), "sums length");
    expect(turn.size() == kWord && pooled.size() == std::size_t(pixels) * kWord, "pooled of another length");
    expect(!index.size() || (index_step >= kWord && index.size() == std::size_t(pixels) * std::size_t(index_step)),
           "index of another length");
    functions(isa).max_pool_i32(sums.data(), sums_step, std::ptrdiff_t(row_pixels) * sums_step, kernel_high, kernel_wide,
                                stride_wide, pixels, turn.data(), pooled.data(), index.size() ? index.data() : nullptr,
                                index_step);
}

template <class T, class F>
void affine_row(F function, Vector<const T> sums, int sums_step, Vector<const float> slope, Vector<const float> offset,
                Vector<const float> addend, int channels, Vector<float> out, int out_step) {
    expect(sums_step >= kWord && sums.size() && sums.size() % std::size_t(sums_step) == 0, "sums of another length");
    const std::size_t pixels = sums.size() / std::size_t(sums_step);
    expect(channels >= 16 && channels <= kWord && channels % 16 == 0 && out_step >= channels, "channels do not fit");
    expect(slope.size() == kWord && offset.size() == kWord && out.size() == pixels * std::size_t(out_step), "lengths");
    expect(!addend.size() || addend.size() == out.size(), "addend of another length");
    function(sums.data(), sums_step, static_cast<int>(pixels), slope.data(), offset.data(),
             addend.size() ? addend.data() : nullptr, out_step, channels, out.data(), out_step);
}

void ste_row(const std::string& isa, Vector<const float> gradient, int gradient_step, Vector<const std::uint32_t> mask,
             int mask_step, float floor, Vector<const float> gain, int channels, Vector<float> out) {
    expect(gradient_step >= channels && channels >= 16 && channels <= kWord && channels % 16 == 0, "channels");
    expect(gradient.size() && gradient.size() % std::size_t(gradient_step) == 0, "gradient of another length");
    const std::size_t pixels = gradient.size() / std::size_t(gradient_step);
    expect(mask_step >= 1 && mask.size() == pixels * std::size_t(mask_step) && gain.size() == kWord &&
               out.size() == gradient.size(),
           "lengths");
    functions(isa).ste_gradient(gradient.data(), gradient_step, static_cast<int>(pixels), mask.data(), mask_step, floor,
                                gain.data(), channels, out.data(), gradient_step);
}

void expand_fields(const std::string& isa, const std::string& to, Vector<const std::uint8_t> fields, int bits, int low,
                   int step, Vector<std::uint8_t> panel) {
    const ExpandKernel& kernel = expander(isa);
    expect(bits == 1 || bits == 2 || bits == 4 || bits == 8, "fields have 1, 2, 4 or 8 bits");
    const bool is_float = to == "f32";
    expect(is_float || to == "i8", "panels are i8 or f32");
    const std::size_t count = panel.size() / (is_float ? 4 : 1);
    expect(count % kWord == 0 && fields.size() * 8 == count * std::size_t(bits), "lengths");
    const auto out = aligned(panel.size() + 64);
    if (is_float)
        kernel.to_f32(fields.data(), bits, low, step, count, static_cast<float*>(out.get()));
    else
        kernel.to_i8(fields.data(), bits, low, step, count, static_cast<std::int8_t*>(out.get()));
    std::memcpy(panel.data(), out.get(), panel.size());
}

}  // namespace

void bind_kernels(nb::module_& module) {
    module.def("cpu_features", [] {
        const Cpu& cpu = this_cpu();
        nb::dict features;
        features["avx2"] = cpu.avx2;
        features["avxvnni"] = cpu.avxvnni;
        features["avx512"] = cpu.avx512;
        features["avx512vnni"] = cpu.avx512vnni;
        features["avx512vpopcntdq"] = cpu.avx512vpopcntdq;
        features["neon"] = cpu.neon;
        features["neondot"] = cpu.neondot;
        return features;
    });
    // (family, instruction set, block, largest product, activation offset, runs here)
    module.def("sum_kernels", [] {
        nb::list list;
        for (const SumKernel& kernel : sum_kernels())
            list.append(nb::make_tuple(kernel.family, kernel.isa, kernel.block, kernel.largest_product,
                                       kernel.activation_offset, kernel.runs_on(this_cpu())));
        return list;
    });
    module.def("expand_kernels", [] {
        nb::list list;
        for (const ExpandKernel& kernel : expand_kernels())
            list.append(nb::make_tuple(kernel.isa, kernel.runs_on(this_cpu())));
        return list;
    });
    module.def("row_function_sets", [] {
        nb::list list;
        for (const RowFunctions& table : row_functions())
            list.append(nb::make_tuple(table.isa, table.runs_on(this_cpu())));
        return list;
    });
    module.def("sum_row", sum_row, nb::arg("family"), nb::arg("isa"), nb::arg("source"), nb::arg("row_pitch"),
               nb::arg("tap_step"), nb::arg("pixel_step"), nb::arg("taps_high"), nb::arg("taps_wide"),
               nb::arg("groups"), nb::arg("pixels"), nb::arg("weights"), nb::arg("start"), nb::arg("sums"),
               nb::arg("repeats") = 1, nb::call_guard<nb::gil_scoped_release>());
    module.def("threshold_row_i32",
               [](const std::string& isa, const std::string& form, Vector<const std::int32_t> sums, int sums_step,
                  int levels, Vector<const std::int32_t> turn, Vector<const std::int32_t> thresholds,
                  Vector<const std::int32_t> mask_low, Vector<const std::int32_t> mask_high, int code_step,
                  int channels, Vector<std::uint8_t> out, int out_step, Vector<std::uint32_t> mask, int mask_step) {
                   threshold_row<std::int32_t>(functions(isa).threshold_i32, form, sums, sums_step, levels, turn,
                                               thresholds, mask_low, mask_high, code_step, channels, out, out_step,
                                               mask, mask_step);
               });
    module.def("threshold_row_f32",
               [](const std::string& isa, const std::string& form, Vector<const float> sums, int sums_step, int levels,
                  Vector<const std::int32_t> turn, Vector<const float> thresholds, Vector<const float> mask_low,
                  Vector<const float> mask_high, int code_step, int channels, Vector<std::uint8_t> out, int out_step,
                  Vector<std::uint32_t> mask, int mask_step) {
                   threshold_row<float>(functions(isa).threshold_f32, form, sums, sums_step, levels, turn, thresholds,
                                        mask_low, mask_high, code_step, channels, out, out_step, mask, mask_step);
               });
    module.def("max_pool_row", max_pool_row);
    module.def("affine_row_i32", [](const std::string& isa, Vector<const std::int32_t> sums, int sums_step,
                                    Vector<const float> slope, Vector<const float> offset, Vector<const float> addend,
                                    int channels, Vector<float> out, int out_step) {
        affine_row<std::int32_t>(functions(isa).affine, sums, sums_step, slope, offset, addend, channels, out, out_step);
    });
    module.def("affine_row_f32", [](const std::string& isa, Vector<const float> sums, int sums_step,
                                    Vector<const float> slope, Vector<const float> offset, Vector<const float> addend,
                                    int channels, Vector<float> out, int out_step) {
        affine_row<float>(functions(isa).affine_f32, sums, sums_step, slope, offset, addend, channels, out, out_step);
    });
    module.def("ste_gradient_row", ste_row);
    module.def("add_floats", [](const std::string& isa, Vector<const float> left, Vector<const float> right,
                                Vector<float> out) {
        expect(left.size() == right.size() && left.size() == out.size(), "lengths");
        functions(isa).add(left.data(), right.data(), left.size(), out.data());
    });
    module.def("largest_magnitude", [](const std::string& isa, Vector<const float> values) {
        return functions(isa).largest_magnitude(values.data(), values.size());
    });
    module.def("quantize_floats", [](const std::string& isa, Vector<const float> values, float inverse_scale,
                                     Vector<std::uint8_t> out) {
        expect(values.size() == out.size(), "lengths");
        functions(isa).quantize(values.data(), values.size(), inverse_scale, out.data());
    });
    module.def("expand_fields", expand_fields);
}

}  // namespace bitlens
