#include "plan_bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <type_traits>

#include "codes.h"
#include "plain_steps.h"
#include "plan.h"
#include "rows_step.h"

namespace nb = nanobind;

namespace bitlens {
namespace {

template <class T>
using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Maps = nb::ndarray<T, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

template <class T>
std::vector<T> copied(const Vector<T>& values) {
    return std::vector<T>(values.data(), values.data() + values.size());
}

Form form_named(const std::string& name) {
    const char* const names[] = {"bits", "planes", "u8", "i16", "i32", "f32", "mask", "index"};
    for (int i = 0; i < 8; ++i)
        if (name == names[i]) return static_cast<Form>(i);
    throw std::invalid_argument("no form is called " + name);
}

template <class T>
T item(const nb::dict& dict, const char* name) {
    if (!dict.contains(name)) refuse(std::string("a step lacks ") + name);
    return nb::cast<T>(dict[name]);
}

template <class T>
std::vector<T> items(const nb::dict& dict, const char* name) {
    return copied<T>(item<Vector<T>>(dict, name));
}

Kernel2d kernel_of(const std::vector<int>& k) {
    expect(k.size() == 6, "a window is high, wide, two strides, top and left");
    return {k[0], k[1], k[2], k[3], k[4], k[5]};
}

Epilogue epilogue_of(const nb::dict& d) {
    Epilogue e{};
    e.channels = item<int>(d, "channels");
    e.rows = item<int>(d, "rows");
    e.columns = item<int>(d, "columns");
    if (d.contains("origin")) {
        const auto at = item<std::vector<int>>(d, "origin");
        expect(at.size() == 4, "an origin is y, x and two steps");
        e.origin_y = at[0], e.origin_x = at[1], e.step_y = at[2], e.step_x = at[3];
    }
    if (d.contains("pool")) {
        const auto p = item<nb::dict>(d, "pool");
        e.pool = Pool{kernel_of(item<std::vector<int>>(p, "window")), items<std::int32_t>(p, "turn"), item<int>(p, "index")};
    }
    if (d.contains("sums")) e.sums = item<int>(d, "sums");
    if (d.contains("affine")) {
        const auto a = item<nb::dict>(d, "affine");
        e.affine = Affine{items<float>(a, "slope"), items<float>(a, "offset"), item<int>(a, "scale_slot")};
    }
    if (d.contains("straight_through")) {
        const auto s = item<nb::dict>(d, "straight_through");
        e.straight_through = StraightThrough{item<int>(s, "mask"), items<float>(s, "gain")};
    }
    if (d.contains("addend")) e.addend = item<int>(d, "addend");
    if (d.contains("reals")) e.reals = item<int>(d, "reals");
    if (d.contains("thresholds_sums")) e.thresholds_sums = item<bool>(d, "thresholds_sums");
    if (d.contains("threshold")) {
        const auto t = item<nb::dict>(d, "threshold");
        e.threshold = Threshold{item<int>(t, "levels"), item<int>(t, "code_step"), items<std::int32_t>(t, "turn"),
                                items<std::int32_t>(t, "thresholds"), items<std::int32_t>(t, "mask_low"),
                                items<std::int32_t>(t, "mask_high"), item<int>(t, "codes"), item<int>(t, "mask")};
    }
    return e;
}

std::string convolution(Plan& plan, const nb::dict& d, const nb::dict& epilogue, int variant) {
    Convolution c{};
    c.source = item<int>(d, "source");
    c.family = item<std::string>(d, "family");
    const auto taps = item<std::vector<int>>(d, "taps");
    const auto first = item<std::vector<int>>(d, "first");
    const auto stride = item<std::vector<int>>(d, "stride");
    const auto fields = item<std::vector<int>>(d, "fields");
    const auto size = item<std::vector<int>>(d, "size");
    const auto largest = item<std::vector<int>>(d, "largest");
    expect(taps.size() == 3 && first.size() == 2 && stride.size() == 2 && fields.size() == 3 && size.size() == 2 && largest.size() == 2,
           "a convolution's geometry is not complete");
    c.taps_high = taps[0], c.taps_wide = taps[1], c.groups = taps[2];
    c.merged = item<bool>(d, "merged");
    c.first_y = first[0], c.first_x = first[1];
    c.stride_high = stride[0], c.stride_wide = stride[1];
    c.rows = size[0], c.columns = size[1];
    c.bits = fields[0], c.low = fields[1], c.step = fields[2];
    expect(largest[0] >= 0 && largest[0] <= 255 && largest[1] >= 0 && largest[1] <= 128, "largest code and weight");
    c.largest_code = largest[0], c.largest_weight = largest[1];
    c.weights = items<std::uint8_t>(d, "weights");
    c.start = items<std::int32_t>(d, "start");
    return add_convolution(plan, std::move(c), epilogue_of(epilogue), variant);
}

template <class T>
void check_maps(const Plan& plan, int id, const Maps<T>& maps) {
    const Size& size = plan.buffer(id).size;
    expect(maps.shape(1) == std::size_t(size.channels) && maps.shape(2) == std::size_t(size.height) && maps.shape(3) == std::size_t(size.width),
           "maps of another size than the buffer");
    plan.check_batch(maps.shape(0) > 4096 ? 4097 : static_cast<int>(maps.shape(0)));
}

// Element by element from NCHW to a buffer, or back; a row of all its channels at a time, so that both stay in L1.
template <class T, class Each>
void each_element(Plan& plan, int id, T* maps, int batch, Each each) {
    const Buffer& b = plan.buffer(id);
    const std::ptrdiff_t plane = std::ptrdiff_t(b.size.height) * b.size.width;
    for (int image = 0; image < batch; ++image, maps += plane * b.size.channels) {
        char* base = plan.image(id, image) + b.border.top * b.row_bytes + b.border.left * b.pixel_bytes;
        for (int y = 0; y < b.size.height; ++y) {
            if (b.size.channels == 3) {  // the colours of a pixel together: a third of the steps
                T* row = maps + std::ptrdiff_t(y) * b.size.width;
                char* pixel = base + y * b.row_bytes;
                for (int x = 0; x < b.size.width; ++x, ++row, pixel += b.pixel_bytes)
                    each(pixel, 0, row[0]), each(pixel, 1, row[plane]), each(pixel, 2, row[2 * plane]);
                continue;
            }
            for (int c = 0; c < b.size.channels; ++c) {
                T* row = maps + c * plane + std::ptrdiff_t(y) * b.size.width;
                char* pixel = base + y * b.row_bytes;
                for (int x = 0; x < b.size.width; ++x) each(pixel + x * b.pixel_bytes, c, row[x]);
            }
        }
    }
}

// Calls use(form) with the buffer's form as a constant, so that a loop over elements does not ask for it.
template <Form form, Form... others, class Use>
void with_form(Form actual, const char* refusal, Use use) {
    if (actual == form) return use(std::integral_constant<Form, form>());
    if constexpr (sizeof...(others) > 0)
        with_form<others...>(actual, refusal, use);
    else
        refuse(refusal);
}

void write_codes(Plan& plan, int id, Maps<const std::int16_t> maps) {
    check_maps(plan, id, maps);
    with_form<Form::u8, Form::i16, Form::i32>(plan.buffer(id).form, "codes are written to i16, u8 or i32", [&](auto form) {
        each_element(plan, id, maps.data(), static_cast<int>(maps.shape(0)), [=](char* pixel, int c, std::int16_t value) { store_code(pixel, form, c, value); });
    });
}

void write_floats(Plan& plan, int id, Maps<const float> maps) {
    check_maps(plan, id, maps);
    plan.buffer(id, Form::f32);
    each_element(plan, id, maps.data(), static_cast<int>(maps.shape(0)), [](char* pixel, int c, float value) { reinterpret_cast<float*>(pixel)[c] = value; });
}

void read_floats(Plan& plan, int id, Maps<float> maps) {
    check_maps(plan, id, maps);
    plan.buffer(id, Form::f32);
    each_element(plan, id, maps.data(), static_cast<int>(maps.shape(0)), [](char* pixel, int c, float& value) { value = reinterpret_cast<float*>(pixel)[c]; });
}

// low + step * what is stored.
void read_integers(Plan& plan, int id, Maps<std::int32_t> maps, int low, int step) {
    check_maps(plan, id, maps);
    with_form<Form::bits, Form::mask, Form::planes, Form::u8, Form::index, Form::i16, Form::i32>(plan.buffer(id).form, "floats are read as floats", [&](auto form) {
        each_element(plan, id, maps.data(), static_cast<int>(maps.shape(0)),
                     [=](const char* pixel, int c, std::int32_t& value) { value = static_cast<std::int32_t>(low + std::int64_t(step) * stored_code(pixel, form, c)); });
    });
}

// Smallest rectangle outside which two images (C, H, W) are equal.
template <class T>
Rect difference(const T* base, const T* other, const Size& size) {
    Rect found{size.height, size.width, 0, 0};
    for (int c = 0; c < size.channels; ++c)
        for (int y = 0; y < size.height; ++y, base += size.width, other += size.width) {
            if (!std::memcmp(base, other, std::size_t(size.width) * sizeof(T))) continue;
            int first = 0, last = size.width - 1;
            while (!std::memcmp(base + first, other + first, sizeof(T))) ++first;
            while (!std::memcmp(base + last, other + last, sizeof(T))) --last;
            found = {std::min(found.y0, y), std::min(found.x0, first), std::max(found.y1, y + 1), std::max(found.x1, last + 1)};
        }
    return found.empty() ? Rect{} : found;
}

// Run on `base`, then on each of `others`, computing again only what their difference from `base` reaches; `target`
// takes `results` (others, channels) of the f32 buffer `result`.
template <class T>
void run_near(Plan& plan, int source, Maps<const T> base, Maps<const T> others, int result, int variant,
              nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu> results) {
    check_maps(plan, source, base);
    const Buffer &b = plan.buffer(source), &out = plan.buffer(result, Form::f32);
    const Size& size = b.size;
    expect(base.shape(0) == 1 && others.shape(1) == base.shape(1) && others.shape(2) == base.shape(2) && others.shape(3) == base.shape(3), "images of another size");
    expect(out.size.height == 1 && out.size.width == 1 && results.shape(0) == others.shape(0) && results.shape(1) == std::size_t(out.size.channels), "results of another size");
    const nb::gil_scoped_release released;
    const auto put = [&](const T* image, const Rect& rect) {
        char* map = plan.image(source, 0);
        for (int c = 0; c < size.channels; ++c)
            for (int y = rect.y0; y < rect.y1; ++y)
                for (int x = rect.x0; x < rect.x1; ++x) {
                    char* pixel = map + (y + b.border.top) * b.row_bytes + (x + b.border.left) * b.pixel_bytes;
                    const T value = image[(std::ptrdiff_t(c) * size.height + y) * size.width + x];
                    if constexpr (std::is_same_v<T, float>)
                        reinterpret_cast<float*>(pixel)[c] = value;
                    else
                        store_code(pixel, b.form, c, value);
                }
    };
    const auto take = [&](std::size_t place) {
        const char* pixel = plan.image(result, 0) + out.border.top * out.row_bytes + out.border.left * out.pixel_bytes;
        std::memcpy(results.data() + place * std::size_t(out.size.channels), pixel, std::size_t(out.size.channels) * sizeof(float));
    };
    put(base.data(), {0, 0, size.height, size.width});
    plan.run(1, variant);
    plan.keep();
    const std::size_t elements = std::size_t(size.channels) * std::size_t(size.height) * std::size_t(size.width);
    for (std::size_t place = 0; place < others.shape(0); ++place) {
        const T* image = others.data() + place * elements;
        const Rect changed = difference(base.data(), image, size);
        put(image, changed);
        plan.run_changed(source, changed, variant);
        take(place);
        plan.put_back();
    }
}

void run_near_codes(Plan& plan, int source, Maps<const std::int16_t> base, Maps<const std::int16_t> others, int result, int variant,
                    nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu> results) {
    const Form form = plan.buffer(source).form;
    expect(form == Form::u8 || form == Form::i16, "codes are written to u8 or i16");
    run_near<std::int16_t>(plan, source, base, others, result, variant, results);
}

void run_near_floats(Plan& plan, int source, Maps<const float> base, Maps<const float> others, int result, int variant,
                     nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu> results) {
    plan.buffer(source, Form::f32);
    run_near<float>(plan, source, base, others, result, variant, results);
}

}  // namespace

void bind_plans(nb::module_& module) {
    nb::class_<ThreadPool>(module, "ThreadPool").def("__init__", [](ThreadPool* self, int threads) {
        expect(threads >= 1 && threads <= 256, "threads: expected 1 to 256");
        new (self) ThreadPool(threads);
    });
    nb::class_<Plan>(module, "Plan")
        .def("__init__", [](Plan* self, ThreadPool& threads, const std::vector<std::string>& isas) { new (self) Plan(threads, isas); }, nb::keep_alive<1, 2>())
        .def("buffer", [](Plan& plan, const std::string& form, int channels, int height, int width, const std::vector<int>& border, Vector<int> fill, bool tight) {
            expect(border.size() == 4, "a border is top, left, bottom and right");
            return plan.add_buffer(form_named(form), {channels, height, width}, {border[0], border[1], border[2], border[3]}, copied<int>(fill), tight);
        })
        .def("view", [](Plan& plan, int flat, int channels, int height, int width) { return plan.add_view(flat, {channels, height, width}); })
        .def("scale_slot", &Plan::add_scale_slot)
        .def("kernel", [](const Plan& plan, const std::string& family, int channels, int largest_product) {
            const SumKernel& kernel = plan.kernel(family, channels, largest_product);
            return std::string(kernel.family) + "__" + kernel.isa;
        })
        .def("convolution", convolution)
        .def("pixels", [](Plan& plan, int source, const std::vector<int>& first, const nb::dict& epilogue, int variant) {
            expect(first.size() == 2, "a first pixel is y and x");
            add_pixels(plan, {source, first[0], first[1]}, epilogue_of(epilogue), variant);
        })
        .def("convert", add_convert)
        .def("move", [](Plan& plan, int source, int target, int down, int right, Vector<std::int32_t> fill) { add_move(plan, source, target, down, right, copied<std::int32_t>(fill)); })
        .def("reshape", add_reshape)
        .def("max_pool", [](Plan& plan, int source, int target, int index, const std::vector<int>& kernel, Vector<std::int32_t> turn) {
            add_max_pool(plan, source, target, index, kernel_of(kernel), copied<std::int32_t>(turn));
        })
        .def("sum_pool", [](Plan& plan, int source, int target, const std::vector<int>& kernel, int low) { add_sum_pool(plan, source, target, kernel_of(kernel), low); })
        .def("relu", add_relu)
        .def("max_pool_gradient", [](Plan& plan, int source, int index, int target, const std::vector<int>& kernel) { add_max_pool_gradient(plan, source, index, target, kernel_of(kernel)); })
        .def("sum_pool_gradient", [](Plan& plan, int source, int target, const std::vector<int>& kernel) { add_sum_pool_gradient(plan, source, target, kernel_of(kernel)); })
        .def("relu_gradient", add_relu_gradient)
        .def("direct", [](Plan& plan, int source, int target, int groups, int outputs, const std::vector<int>& kernel, Vector<std::int32_t> weights, bool is_gradient) {
            (is_gradient ? add_direct_gradient : add_direct)(plan, source, target, Direct{groups, outputs, kernel_of(kernel), copied<std::int32_t>(weights)});
        })
        .def("depth_to_space", [](Plan& plan, int source, int target, const std::vector<int>& tile) {
            expect(tile.size() == 2, "a tile is high and wide");
            add_depth_to_space(plan, source, target, tile[0], tile[1]);
        })
        .def("gather", [](Plan& plan, int source, int target, const std::vector<int>& kernel) { add_gather(plan, source, target, kernel_of(kernel)); })
        .def("magnitude", [](Plan& plan, int source, int slot, Vector<float> slope) { add_magnitude(plan, source, slot, copied<float>(slope)); })
        .def("quantize", [](Plan& plan, int source, int slot, Vector<float> slope, int index, const std::vector<int>& kernel, int target) {
            add_quantize(plan, source, slot, copied<float>(slope), index, kernel_of(kernel), target);
        })
        .def("finish", &Plan::finish)
        .def("set_box", [](Plan& plan, int mask, Vector<std::int32_t> low, Vector<std::int32_t> high) { plan.set_box(mask, copied<std::int32_t>(low), copied<std::int32_t>(high)); })
        .def_rw("guided_floor", &Plan::guided_floor)
        .def("run", &Plan::run, nb::call_guard<nb::gil_scoped_release>())
        .def("profile", &Plan::profile)
        .def("run_near_codes", run_near_codes)
        .def("run_near_floats", run_near_floats)
        .def("write_codes", write_codes)
        .def("write_floats", write_floats)
        .def("read_floats", read_floats)
        .def("read_integers", read_integers)
        .def_prop_ro("arena_bytes", &Plan::arena_bytes)
        .def_ro("weight_bytes", &Plan::weight_bytes)
        .def_ro("kernels_used", &Plan::kernels_used)
        .def_prop_ro("rows_used", [](const Plan& plan) { return std::string(plan.rows().isa); })
        .def_prop_ro("threads", &Plan::threads)
        .def_prop_ro("max_batch", &Plan::max_batch);
}

}  // namespace bitlens
