#include "plain_steps.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "codes.h"

namespace bitlens {
namespace {

// A step over whole images: `work(image, rect)` fills `rect` of its target.
class PlainStep : public Step {
public:
    PlainStep(std::string name, std::vector<int> reads, std::vector<int> writes, Rect whole)
        : name_(std::move(name)), reads_(std::move(reads)), writes_(std::move(writes)), whole_(whole) {}
    std::string name() const override { return name_; }
    int parts() const override { return 1; }
    std::vector<int> reads() const override { return reads_; }
    std::vector<int> writes() const override { return writes_; }
    Rect whole() const override { return whole_; }
    Rect reached(int, const Rect&) const override { return whole_; }

protected:
    std::string name_;
    std::vector<int> reads_, writes_;
    Rect whole_;
};

template <class Fill>
class Filled final : public PlainStep {
public:
    using Reach = Rect (*)(const Kernel2d&, const Rect&);
    Filled(std::string name, std::vector<int> reads, std::vector<int> writes, Rect whole, Fill fill, Kernel2d kernel = {}, Reach reach = nullptr)
        : PlainStep(std::move(name), std::move(reads), std::move(writes), whole), fill_(std::move(fill)), kernel_(kernel), reach_(reach) {}
    void run(const Work& work, int, int first, int last, const Rect& rect) const override {
        for (int image = first; image < last; ++image) fill_(work, image, rect);
    }
    Rect reached(int, const Rect& changed) const override {
        return reach_ ? clipped(reach_(kernel_, changed), whole_.y1, whole_.x1) : whole_;
    }

private:
    Fill fill_;
    Kernel2d kernel_;
    Reach reach_;
};

Rect same_place(const Kernel2d&, const Rect& changed) { return changed; }

template <class Fill>
void add(Plan& plan, const char* name, std::vector<int> reads, int target, std::vector<int> further, Fill fill, Kernel2d kernel = {},
         typename Filled<Fill>::Reach reach = nullptr, int variant = 0, std::size_t scratch_bytes = 0) {
    const Size& size = plan.buffer(target).size;
    further.insert(further.begin(), target);
    plan.add_step(std::make_unique<Filled<Fill>>(name, std::move(reads), std::move(further), Rect{0, 0, size.height, size.width}, std::move(fill), kernel, reach), variant, scratch_bytes);
}

bool same(const Size& a, const Size& b) { return a.channels == b.channels && a.height == b.height && a.width == b.width; }

std::size_t elements(const Size& size) { return std::size_t(size.channels) * std::size_t(size.height) * std::size_t(size.width); }

void check_kernel(const Kernel2d& k) {
    for (const int side : {k.high, k.wide, k.stride_high, k.stride_wide}) expect(side >= 1 && side <= kLargestWindow, "a window does not fit");
    expect(k.top >= 0 && k.left >= 0 && k.top <= kLargestWindow && k.left <= kLargestWindow, "a padding does not fit");
}

}  // namespace

void add_convert(Plan& plan, int source, int source_low, int source_step, int target, int target_low, int target_step, int variant) {
    const Buffer &from = plan.buffer(source), &to = plan.buffer(target);
    expect(same(from.size, to.size) && from.form != Form::f32 && to.form != Form::f32 && target_step >= 1, "codes do not fit their new form");
    const auto fill = [=](const Work& work, int image, const Rect& rect) {
        const Buffer &a = work.plan.buffer(source), &b = work.plan.buffer(target);
        for (int y = rect.y0; y < rect.y1; ++y)
            for (int x = rect.x0; x < rect.x1; ++x) {
                const char* pixel = work.plan.pixel(work, a, image, y, x);
                char* out = work.plan.pixel(work, b, image, y, x);
                for (int c = 0; c < a.size.channels; ++c)
                    store_code(out, b.form, c, static_cast<int>((source_low + std::int64_t(source_step) * stored_code(pixel, a.form, c) - target_low) / target_step));
            }
    };
    add(plan, "convert", {source}, target, {}, fill, {}, same_place, variant);
}

void add_move(Plan& plan, int source, int target, int down, int right, std::vector<std::int32_t> fill_with) {
    const Buffer &from = plan.buffer(source), &to = plan.buffer(target);
    expect((from.form == Form::i32 || from.form == Form::f32) && from.form == to.form && from.size.channels == to.size.channels, "only maps of one kind are moved");
    expect(fill_with.size() == std::size_t(to.size.channels) && down > -kLargestWindow && down < kLargestWindow && right > -kLargestWindow && right < kLargestWindow, "a move does not fit");
    const auto fill = [source, target, down, right, values = std::move(fill_with)](const Work& work, int image, const Rect& rect) {
        const Buffer &a = work.plan.buffer(source), &b = work.plan.buffer(target);
        const std::size_t bytes = values.size() * 4;
        for (int y = rect.y0; y < rect.y1; ++y)
            for (int x = rect.x0; x < rect.x1; ++x) {
                const int from_y = y - down, from_x = x - right;
                const bool inside = from_y >= 0 && from_x >= 0 && from_y < a.size.height && from_x < a.size.width;
                std::memcpy(work.plan.pixel(work, b, image, y, x), inside ? work.plan.pixel(work, a, image, from_y, from_x) : reinterpret_cast<const char*>(values.data()), bytes);
            }
    };
    add(plan, "move", {source}, target, {}, fill);
}

void add_reshape(Plan& plan, int source, int target) {
    const Buffer &from = plan.buffer(source), &to = plan.buffer(target);
    expect((from.form == Form::i32 || from.form == Form::f32) && from.form == to.form && elements(from.size) == elements(to.size), "a reshape keeps the elements");
    const auto fill = [=](const Work& work, int image, const Rect&) {
        const Buffer &a = work.plan.buffer(source), &b = work.plan.buffer(target);
        const std::size_t plane_a = std::size_t(a.size.height) * std::size_t(a.size.width), plane_b = std::size_t(b.size.height) * std::size_t(b.size.width);
        for (std::size_t i = 0; i < elements(a.size); ++i) {
            const int ya = static_cast<int>(i % plane_a) / a.size.width, xa = static_cast<int>(i % plane_a) % a.size.width;
            const int yb = static_cast<int>(i % plane_b) / b.size.width, xb = static_cast<int>(i % plane_b) % b.size.width;
            std::memcpy(work.plan.pixel(work, b, image, yb, xb) + i / plane_b * 4, work.plan.pixel(work, a, image, ya, xa) + i / plane_a * 4, 4);
        }
    };
    add(plan, "reshape", {source}, target, {}, fill);
}

void add_max_pool(Plan& plan, int source, int target, int index, Kernel2d kernel, std::vector<std::int32_t> turn) {
    const Buffer &from = plan.buffer(source, Form::f32), &to = plan.buffer(target, Form::f32);
    check_kernel(kernel);
    expect(kernel.high * kernel.wide <= 255 && kernel.top < kernel.high && kernel.left < kernel.wide, "a pool's window does not fit");
    expect(from.size.channels == to.size.channels && turn.size() == std::size_t(from.size.channels), "a pool keeps its channels");
    expect(last_start(to.size.height, kernel.stride_high, kernel.top) < from.size.height && last_start(to.size.width, kernel.stride_wide, kernel.left) < from.size.width,
           "a pool's window lies outside the map");
    if (index >= 0) expect(same(plan.buffer(index, Form::index).size, to.size), "an index of another size");
    const auto fill = [=, turn = std::move(turn)](const Work& work, int image, const Rect& rect) {
        const Buffer &a = work.plan.buffer(source), &b = work.plan.buffer(target);
        for (int y = rect.y0; y < rect.y1; ++y)
            for (int x = rect.x0; x < rect.x1; ++x) {
                auto* out = reinterpret_cast<float*>(work.plan.pixel(work, b, image, y, x));
                char* place = index >= 0 ? work.plan.pixel(work, work.plan.buffer(index), image, y, x) : nullptr;
                bool first = true;
                for (int ky = 0; ky < kernel.high; ++ky)
                    for (int kx = 0; kx < kernel.wide; ++kx) {
                        const int sy = y * kernel.stride_high - kernel.top + ky, sx = x * kernel.stride_wide - kernel.left + kx;
                        if (sy < 0 || sx < 0 || sy >= a.size.height || sx >= a.size.width) continue;
                        const auto* in = reinterpret_cast<const float*>(work.plan.pixel(work, a, image, sy, sx));
                        for (int c = 0; c < a.size.channels; ++c) {
                            const bool wins = turn[std::size_t(c)] ? in[c] < out[c] : in[c] > out[c];
                            if (!first && !wins) continue;
                            out[c] = in[c];
                            if (place) place[c] = static_cast<char>(ky * kernel.wide + kx);
                        }
                        first = false;
                    }
            }
    };
    std::vector<int> further;
    if (index >= 0) further.push_back(index);
    add(plan, "max pool", {source}, target, further, fill, kernel, windows_over);
}

void add_sum_pool(Plan& plan, int source, int target, Kernel2d kernel, int low) {
    const Buffer &from = plan.buffer(source), &to = plan.buffer(target);
    check_kernel(kernel);
    expect(from.form == Form::f32 ? to.form == Form::f32 : to.form == Form::i32 || to.form == Form::i16, "a sum's form does not fit");
    expect(from.form == Form::f32 || from.form == Form::u8 || from.form == Form::i32, "a sum's source does not fit");
    expect(from.size.channels == to.size.channels, "a sum keeps its channels");
    const auto fill = [=](const Work& work, int image, const Rect& rect) {
        const Buffer &a = work.plan.buffer(source), &b = work.plan.buffer(target);
        const std::size_t channels = std::size_t(a.size.channels);
        auto* total = reinterpret_cast<std::uint32_t*>(work.scratch);  // sums come round, as everywhere
        auto* real = reinterpret_cast<double*>(work.scratch);
        for (int y = rect.y0; y < rect.y1; ++y)
            for (int x = rect.x0; x < rect.x1; ++x) {
                std::memset(work.scratch, 0, channels * sizeof(double));
                const int y0 = std::max(y * kernel.stride_high - kernel.top, 0), x0 = std::max(x * kernel.stride_wide - kernel.left, 0);
                const int y1 = std::min(y * kernel.stride_high - kernel.top + kernel.high, a.size.height);
                const int x1 = std::min(x * kernel.stride_wide - kernel.left + kernel.wide, a.size.width);
                for (int sy = y0; sy < y1; ++sy)
                    for (int sx = x0; sx < x1; ++sx) {
                        const char* in = work.plan.pixel(work, a, image, sy, sx);
                        if (a.form == Form::u8)
                            for (std::size_t c = 0; c < channels; ++c) total[c] += static_cast<std::uint8_t>(in[c]) + static_cast<std::uint32_t>(low);
                        else if (a.form == Form::i32)
                            for (std::size_t c = 0; c < channels; ++c) total[c] += reinterpret_cast<const std::uint32_t*>(in)[c];
                        else
                            for (std::size_t c = 0; c < channels; ++c) real[c] += static_cast<double>(reinterpret_cast<const float*>(in)[c]);
                    }
                char* out = work.plan.pixel(work, b, image, y, x);
                if (b.form == Form::i16)
                    for (std::size_t c = 0; c < channels; ++c) reinterpret_cast<std::int16_t*>(out)[c] = static_cast<std::int16_t>(total[c]);
                else if (b.form == Form::i32)
                    std::memcpy(out, total, channels * 4);
                else
                    for (std::size_t c = 0; c < channels; ++c) reinterpret_cast<float*>(out)[c] = static_cast<float>(real[c]);
            }
    };
    add(plan, "sum pool", {source}, target, {}, fill, kernel, windows_over, 0, std::size_t(to.size.channels) * sizeof(double));
}

void add_relu(Plan& plan, int source, int target) {
    expect(same(plan.buffer(source, Form::f32).size, plan.buffer(target, Form::f32).size), "a relu keeps its size");
    const auto fill = [=](const Work& work, int image, const Rect& rect) {
        const Buffer &a = work.plan.buffer(source), &b = work.plan.buffer(target);
        for (int y = rect.y0; y < rect.y1; ++y) {
            const auto* in = reinterpret_cast<const float*>(work.plan.pixel(work, a, image, y, rect.x0));
            auto* out = reinterpret_cast<float*>(work.plan.pixel(work, b, image, y, rect.x0));
            const std::ptrdiff_t count = (rect.x1 - rect.x0) * a.pitch;
            for (std::ptrdiff_t i = 0; i < count; ++i) out[i] = in[i] > 0.0f ? in[i] : 0.0f;
        }
    };
    add(plan, "relu", {source}, target, {}, fill, {}, same_place);
}

namespace {

// A pool's gradient: `target` begins at 0, and each window's pixel (y, x) of `source` gives something to each pixel that
// the window saw, as its cell.
template <class Give>
void give_back(const Work& work, int source, int target, const Kernel2d& kernel, int image, Give give) {
    const Buffer &a = work.plan.buffer(source), &b = work.plan.buffer(target);
    for (int y = 0; y < b.size.height; ++y)
        std::memset(work.plan.pixel(work, b, image, y, 0), 0, std::size_t(b.size.width * b.pixel_bytes));
    for (int y = 0; y < a.size.height; ++y)
        for (int x = 0; x < a.size.width; ++x) {
            const char* in = work.plan.pixel(work, a, image, y, x);
            for (int ky = 0; ky < kernel.high; ++ky)
                for (int kx = 0; kx < kernel.wide; ++kx) {
                    const int sy = y * kernel.stride_high - kernel.top + ky, sx = x * kernel.stride_wide - kernel.left + kx;
                    if (sy < 0 || sx < 0 || sy >= b.size.height || sx >= b.size.width) continue;
                    give(in, y, x, ky * kernel.wide + kx, work.plan.pixel(work, b, image, sy, sx));
                }
        }
}

// Adds the values whose window `cell` won; without a branch, because which one did is not to be guessed.
void add_winners(const std::uint8_t* __restrict winner, const std::int32_t* __restrict values, std::uint8_t cell, int count,
                 float* __restrict out) {
    for (int c = 0; c < count; ++c) {
        const std::int32_t bits = values[c] & -std::int32_t(winner[c] == cell);
        float value;
        std::memcpy(&value, &bits, sizeof value);
        out[c] += value;
    }
}

}  // namespace

void add_max_pool_gradient(Plan& plan, int source, int index, int target, Kernel2d kernel) {
    expect(same(plan.buffer(source, Form::f32).size, plan.buffer(index, Form::index).size) && plan.buffer(source).size.channels == plan.buffer(target, Form::f32).size.channels,
           "a pool's gradient and index differ in size");
    check_kernel(kernel);
    const auto fill = [=](const Work& work, int image, const Rect&) {
        const Buffer& places = work.plan.buffer(index);
        give_back(work, source, target, kernel, image, [&](const char* in, int y, int x, int cell, char* out) {
            add_winners(reinterpret_cast<const std::uint8_t*>(work.plan.pixel(work, places, image, y, x)), reinterpret_cast<const std::int32_t*>(in),
                        static_cast<std::uint8_t>(cell), places.size.channels, reinterpret_cast<float*>(out));
        });
    };
    add(plan, "max pool gradient", {source, index}, target, {}, fill);
}

void add_sum_pool_gradient(Plan& plan, int source, int target, Kernel2d kernel) {
    expect(plan.buffer(source, Form::f32).size.channels == plan.buffer(target, Form::f32).size.channels, "a sum's gradient keeps its channels");
    check_kernel(kernel);
    const auto fill = [=](const Work& work, int image, const Rect&) {
        const int channels = work.plan.buffer(source).size.channels;
        give_back(work, source, target, kernel, image, [&](const char* in, int, int, int, char* out) {
            for (int c = 0; c < channels; ++c) reinterpret_cast<float*>(out)[c] += reinterpret_cast<const float*>(in)[c];
        });
    };
    add(plan, "sum pool gradient", {source}, target, {}, fill);
}

void add_relu_gradient(Plan& plan, int source, int activation, int target) {
    const Buffer &from = plan.buffer(source, Form::f32), &to = plan.buffer(target, Form::f32);
    expect(same(from.size, to.size) && same(from.size, plan.buffer(activation, Form::f32).size), "a relu keeps its size");
    const auto fill = [=](const Work& work, int image, const Rect& rect) {
        const Buffer &a = work.plan.buffer(source), &b = work.plan.buffer(target), &act = work.plan.buffer(activation);
        const float floor = work.plan.guided_floor;
        for (int y = rect.y0; y < rect.y1; ++y) {
            const auto* in = reinterpret_cast<const float*>(work.plan.pixel(work, a, image, y, rect.x0));
            const auto* active = reinterpret_cast<const float*>(work.plan.pixel(work, act, image, y, rect.x0));
            auto* out = reinterpret_cast<float*>(work.plan.pixel(work, b, image, y, rect.x0));
            const std::ptrdiff_t count = (rect.x1 - rect.x0) * a.pitch;
            for (std::ptrdiff_t i = 0; i < count; ++i) out[i] = active[i] > 0.0f ? (in[i] > floor ? in[i] : floor) : 0.0f;
        }
    };
    add(plan, "relu gradient", {source, activation}, target, {}, fill);
}

namespace {

void check_direct(const Plan& plan, int inputs, int outputs, const Direct& d) {
    const Buffer &in = plan.buffer(inputs), &out = plan.buffer(outputs);
    check_kernel(d.kernel);
    expect((in.form == Form::i32 || in.form == Form::f32) && in.form == out.form, "a direct convolution's form does not fit");
    expect(d.groups >= 1 && d.outputs >= 1 && in.size.channels % d.groups == 0 && d.outputs % d.groups == 0 && out.size.channels == d.outputs, "groups do not fit");
    expect(d.weights.size() == std::size_t(d.outputs) * std::size_t(in.size.channels / d.groups) * std::size_t(d.kernel.high) * std::size_t(d.kernel.wide), "weights of another number");
}

float as_float(std::int32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace

void add_direct(Plan& plan, int source, int target, Direct direct) {
    check_direct(plan, source, target, direct);
    const Kernel2d kernel = direct.kernel;
    const auto fill = [source, target, d = std::move(direct)](const Work& work, int image, const Rect& rect) {
        const Buffer &a = work.plan.buffer(source), &b = work.plan.buffer(target);
        const int per_in = a.size.channels / d.groups, per_out = d.outputs / d.groups;
        const bool is_float = a.form == Form::f32;
        for (int y = rect.y0; y < rect.y1; ++y)
            for (int x = rect.x0; x < rect.x1; ++x)
                for (int o = 0; o < d.outputs; ++o) {
                    std::uint32_t total = 0;
                    double real = 0.0;
                    const std::int32_t* weights = d.weights.data() + std::size_t(o) * std::size_t(per_in * d.kernel.high * d.kernel.wide);
                    for (int ky = 0; ky < d.kernel.high; ++ky)
                        for (int kx = 0; kx < d.kernel.wide; ++kx) {
                            const int sy = y * d.kernel.stride_high - d.kernel.top + ky, sx = x * d.kernel.stride_wide - d.kernel.left + kx;
                            // The border holds the padding; beyond it nothing is read.
                            if (sy < -a.border.top || sx < -a.border.left || sy >= a.size.height + a.border.bottom || sx >= a.size.width + a.border.right) continue;
                            const char* in = work.plan.pixel(work, a, image, sy, sx) + std::ptrdiff_t(o / per_out) * per_in * 4;
                            for (int c = 0; c < per_in; ++c) {
                                const std::int32_t weight = weights[(c * d.kernel.high + ky) * d.kernel.wide + kx];
                                if (is_float)
                                    real += static_cast<double>(reinterpret_cast<const float*>(in)[c]) * static_cast<double>(as_float(weight));
                                else
                                    total += reinterpret_cast<const std::uint32_t*>(in)[c] * static_cast<std::uint32_t>(weight);
                            }
                        }
                    char* out = work.plan.pixel(work, b, image, y, x);
                    if (is_float)
                        reinterpret_cast<float*>(out)[o] = static_cast<float>(real);
                    else
                        reinterpret_cast<std::uint32_t*>(out)[o] = total;
                }
    };
    add(plan, "direct", {source}, target, {}, fill, kernel, windows_over);
}

void add_direct_gradient(Plan& plan, int source, int target, Direct direct) {
    check_direct(plan, target, source, direct);
    expect(plan.buffer(source).form == Form::f32, "a gradient is real");
    const auto fill = [source, target, d = std::move(direct)](const Work& work, int image, const Rect&) {
        const Buffer &a = work.plan.buffer(source), &b = work.plan.buffer(target);
        const int per_in = b.size.channels / d.groups, per_out = d.outputs / d.groups;
        const Kernel2d& k = d.kernel;
        auto* total = reinterpret_cast<double*>(work.scratch);
        for (int sy = 0; sy < b.size.height; ++sy)
            for (int sx = 0; sx < b.size.width; ++sx) {
                std::fill(total, total + b.size.channels, 0.0);
                // The windows that saw this pixel.
                const Rect seen = clipped(windows_over(k, {sy, sx, sy + 1, sx + 1}), a.size.height, a.size.width);
                for (int y = seen.y0; y < seen.y1; ++y)
                    for (int x = seen.x0; x < seen.x1; ++x) {
                        const auto* in = reinterpret_cast<const float*>(work.plan.pixel(work, a, image, y, x));
                        const int ky = sy + k.top - y * k.stride_high, kx = sx + k.left - x * k.stride_wide;
                        for (int o = 0; o < d.outputs; ++o)
                            for (int c = 0; c < per_in; ++c)
                                total[o / per_out * per_in + c] += static_cast<double>(in[o]) * static_cast<double>(as_float(d.weights[std::size_t(((o * per_in + c) * k.high + ky) * k.wide + kx)]));
                    }
                auto* out = reinterpret_cast<float*>(work.plan.pixel(work, b, image, sy, sx));
                for (int c = 0; c < b.size.channels; ++c) out[c] = static_cast<float>(total[c]);
            }
    };
    const std::size_t scratch = std::size_t(plan.buffer(target).size.channels) * sizeof(double);
    add(plan, "direct gradient", {source}, target, {}, fill, {}, nullptr, 0, scratch);
}

namespace {

void gather(const Work& work, const Buffer& a, const Buffer& b, const Kernel2d& kernel, int image) {
    const int channels = b.size.channels;
    for (int y = 0; y < b.size.height; ++y)
        for (int x = 0; x < b.size.width; ++x) {
            auto* out = reinterpret_cast<float*>(work.plan.pixel(work, b, image, y, x));
            std::fill(out, out + channels, 0.0f);
            for (int ky = 0; ky < kernel.high; ++ky) {
                const int sy = y + kernel.top - ky;
                if (sy < 0 || sy >= a.size.height) continue;
                for (int kx = 0; kx < kernel.wide; ++kx) {
                    const int sx = x + kernel.left - kx;
                    if (sx < 0 || sx >= a.size.width) continue;
                    const auto* in = reinterpret_cast<const float*>(work.plan.pixel(work, a, image, sy, sx)) + (ky * kernel.wide + kx) * channels;
                    for (int c = 0; c < channels; ++c) out[c] += in[c];
                }
            }
        }
}

}  // namespace

void add_gather(Plan& plan, int source, int target, Kernel2d kernel) {
    const Buffer &from = plan.buffer(source, Form::f32), &to = plan.buffer(target, Form::f32);
    check_kernel(kernel);
    expect(kernel.stride_high == 1 && kernel.stride_wide == 1, "taps of a stride");
    expect(std::int64_t(from.size.channels) == std::int64_t(to.size.channels) * kernel.high * kernel.wide, "taps of another number");
    const auto fill = [=](const Work& work, int image, const Rect&) { gather(work, work.plan.buffer(source), work.plan.buffer(target), kernel, image); };
    add(plan, "gather", {source}, target, {}, fill);
}

void add_depth_to_space(Plan& plan, int source, int target, int tile_high, int tile_wide) {
    const Buffer &from = plan.buffer(source, Form::f32), &to = plan.buffer(target, Form::f32);
    expect(tile_high >= 1 && tile_wide >= 1 && tile_high <= kWord && tile_wide <= kWord, "a tile does not fit");
    expect(from.size.channels == std::int64_t(to.size.channels) * tile_high * tile_wide && from.size.height == steps_to(to.size.height, tile_high) &&
               from.size.width == steps_to(to.size.width, tile_wide),
           "tiles of another number");
    const auto fill = [=](const Work& work, int image, const Rect&) {
        const Buffer &a = work.plan.buffer(source), &b = work.plan.buffer(target);
        const std::ptrdiff_t channels = b.size.channels, of_row = tile_wide * channels;
        for (int y = 0; y < b.size.height; ++y) {
            const auto* row = reinterpret_cast<const float*>(work.plan.pixel(work, a, image, y / tile_high, 0)) + y % tile_high * of_row;
            auto* out = reinterpret_cast<float*>(work.plan.pixel(work, b, image, y, 0));
            for (int x = 0; x < b.size.width; x += tile_wide, row += a.pitch) {
                const std::ptrdiff_t inside = std::min(tile_wide, b.size.width - x) * channels;
                for (std::ptrdiff_t from = 0; from < inside; from += channels, out += b.pitch)
                    for (std::ptrdiff_t c = 0; c < channels; ++c) out[c] = row[from + c];
            }
        }
    };
    add(plan, "depth to space", {source}, target, {}, fill);
}

namespace {

void check_slot(const Plan& plan, int slot) {
    expect(slot >= 0 && slot < plan.scale_slots(), "no such scale");
}

}  // namespace

namespace {

// The byte where `cell` won, 128 (a gradient of 0) where another one did.
void put_winners(const std::uint8_t* __restrict winner, const std::uint8_t* __restrict bytes, std::uint8_t cell, std::size_t count,
                 std::uint8_t* __restrict out) {
    // Without a branch: which cell won is not to be guessed.
    for (std::size_t c = 0; c < count; ++c) out[c] = static_cast<std::uint8_t>(128 ^ ((bytes[c] ^ 128) & -(winner[c] == cell)));
}

}  // namespace

namespace {

void check_slope(const Buffer& source, const std::vector<float>& slope) {
    expect(slope.empty() || slope.size() == std::size_t(source.size.channels + kWord - 1) / kWord * kWord, "slopes of another number");
}

// Floats in scratch for one row that is multiplied by a slope.
std::size_t row_bytes(const Buffer& source, const std::vector<float>& slope) {
    return slope.empty() ? 0 : std::size_t(source.size.width * source.pitch) * sizeof(float);
}

// Row y, multiplied by the slope into `scratch` if there is one.
const float* sloped_row(const Work& work, const Buffer& b, int image, int y, const std::vector<float>& slope, char* scratch) {
    static const float zeros[kWord] = {};
    const auto* row = reinterpret_cast<const float*>(work.plan.pixel(work, b, image, y, 0));
    if (slope.empty()) return row;
    auto* out = reinterpret_cast<float*>(scratch);
    for (std::ptrdiff_t c = 0; c < b.pitch; c += kWord)
        work.plan.rows().affine_f32(row + c, b.pitch, b.size.width, slope.data() + c, zeros, nullptr, 0, static_cast<int>(std::min<std::ptrdiff_t>(kWord, b.pitch - c)),
                                    out + c, b.pitch);
    return out;
}

}  // namespace

void add_magnitude(Plan& plan, int source, int slot, std::vector<float> slope) {
    check_slope(plan.buffer(source, Form::f32), slope);
    check_slot(plan, slot);
    class Magnitude final : public PlainStep {
    public:
        Magnitude(int source, int slot, std::vector<float> slope, Rect whole)
            : PlainStep("largest magnitude", {source}, {}, whole), slot_(slot), slope_(std::move(slope)) {}
        void run(const Work& work, int, int first, int last, const Rect&) const override {
            const Buffer& b = work.plan.buffer(reads_[0]);
            for (int image = first; image < last; ++image) {
                float largest = 0.0f;
                for (int y = 0; y < b.size.height; ++y)
                    largest = std::max(largest, work.plan.rows().largest_magnitude(sloped_row(work, b, image, y, slope_, work.scratch), std::size_t(b.size.width * b.pitch)));
                // A gradient of nothing, or one that overflowed, has a scale all the same.
                const float scale = largest / 127.0f;
                work.plan.scale(slot_, image) = scale >= std::numeric_limits<float>::min() && std::isfinite(scale) ? scale : 1.0f;
            }
        }

    private:
        int slot_;
        std::vector<float> slope_;
    };
    const Buffer& from = plan.buffer(source);
    const std::size_t scratch = row_bytes(from, slope);
    plan.add_step(std::make_unique<Magnitude>(source, slot, std::move(slope), Rect{0, 0, from.size.height, from.size.width}), 0, scratch);
}

void add_quantize(Plan& plan, int source, int slot, std::vector<float> slope, int index, Kernel2d kernel, int target) {
    const Buffer &from = plan.buffer(source, Form::f32), &to = plan.buffer(target, Form::u8);
    check_slope(from, slope);
    check_slot(plan, slot);
    expect(from.size.channels == to.size.channels, "a gradient keeps its channels");
    if (index < 0) {
        expect(same(from.size, to.size), "a gradient keeps its size");
    } else {
        check_kernel(kernel);
        expect(same(plan.buffer(index, Form::index).size, from.size) && kernel.top == 0 && kernel.left == 0 && kernel.high <= kernel.stride_high && kernel.wide <= kernel.stride_wide, "windows overlap");
        expect(last_start(from.size.height, kernel.stride_high, 0) + kernel.high <= to.size.height && last_start(from.size.width, kernel.stride_wide, 0) + kernel.wide <= to.size.width, "a pool's window lies outside the map");
    }
    const std::size_t bytes_at = row_bytes(from, slope);
    const auto fill = [=, slope = std::move(slope)](const Work& work, int image, const Rect&) {
        const Buffer &a = work.plan.buffer(source), &b = work.plan.buffer(target);
        const float inverse = 1.0f / work.plan.scale(slot, image);
        const std::size_t channels = std::size_t(b.size.channels);  // bytes beyond the last channel stay 0
        auto* bytes = reinterpret_cast<std::uint8_t*>(work.scratch) + bytes_at;
        if (index < 0) {
            for (int y = 0; y < a.size.height; ++y) {
                const float* row = sloped_row(work, a, image, y, slope, work.scratch);
                for (int x = 0; x < a.size.width; ++x, row += a.pitch) {
                    work.plan.rows().quantize(row, std::size_t(a.pitch), inverse, bytes);
                    std::memcpy(work.plan.pixel(work, b, image, y, x), bytes, channels);
                }
            }
            return;
        }
        const Buffer& places = work.plan.buffer(index);
        const bool covered = kernel.high == kernel.stride_high && kernel.wide == kernel.stride_wide && a.size.height * kernel.high == b.size.height &&
                             a.size.width * kernel.wide == b.size.width;
        for (int y = 0; y < b.size.height && !covered; ++y)
            for (int x = 0; x < b.size.width; ++x) std::memset(work.plan.pixel(work, b, image, y, x), 128, channels);
        for (int y = 0; y < a.size.height; ++y) {
            work.plan.rows().quantize(sloped_row(work, a, image, y, slope, work.scratch), std::size_t(a.size.width * a.pitch), inverse, bytes);
            for (int ky = 0; ky < kernel.high; ++ky)
                for (int x = 0; x < a.size.width; ++x)
                    for (int kx = 0; kx < kernel.wide; ++kx)
                        put_winners(reinterpret_cast<const std::uint8_t*>(work.plan.pixel(work, places, image, y, x)), bytes + x * a.pitch,
                                    static_cast<std::uint8_t>(ky * kernel.wide + kx), channels,
                                    reinterpret_cast<std::uint8_t*>(work.plan.pixel(work, b, image, y * kernel.stride_high + ky, x * kernel.stride_wide + kx)));
        }
    };
    std::vector<int> reads{source};
    if (index >= 0) reads.push_back(index);
    add(plan, "quantize", reads, target, {}, fill, {}, nullptr, 0, bytes_at + std::size_t(from.size.width * from.pitch));
}

}  // namespace bitlens
