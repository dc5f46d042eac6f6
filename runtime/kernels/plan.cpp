#include "plan.h"

#include <algorithm>
#include <cstring>
#include <ctime>
#include <functional>
#include <new>
#include <stdexcept>

#include "codes.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace bitlens {
namespace {

constexpr std::size_t kLargestArena = std::size_t(1) << 31;
// A kernel whose channels are merged across a row reads up to three bytes over the last pixel, a row function 32 channels
// of a map of 16.
constexpr std::ptrdiff_t kTail = 64;

// Between buffers, where AddressSanitizer looks on: bytes that nothing may touch.
#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kGuard = 256;
void forbid(const char* start) { ASAN_POISON_MEMORY_REGION(start, kGuard); }
#else
constexpr std::size_t kGuard = 0;
void forbid(const char*) {}
#endif

int element_bytes(Form form) {
    switch (form) {
        case Form::u8:
        case Form::index:
            return 1;
        case Form::i16:
            return 2;
        default:
            return 4;
    }
}

std::ptrdiff_t pitch_of(Form form, int channels) {
    const std::ptrdiff_t words = (channels + 31) / 32;
    switch (form) {
        case Form::bits:
        case Form::mask:
            return words;
        case Form::planes:
            return 2 * words;
        case Form::u8:
            return (channels + 3) / 4 * 4;
        case Form::i16:
            return (channels + 1) / 2 * 2;
        case Form::index:
            return 32 * words;
        default:
            return channels <= 16 ? 16 : 32 * words;
    }
}

template <class Kernel>
const Kernel* first_allowed(const std::vector<Kernel>& list, const std::vector<std::string>& isas) {
    for (const Kernel& kernel : list)
        if (std::find(isas.begin(), isas.end(), kernel.isa) != isas.end() && kernel.runs_on(this_cpu())) return &kernel;
    throw std::invalid_argument("no kernel runs on this processor with the instruction sets that were allowed");
}

std::vector<std::string> with_scalar(std::vector<std::string> isas) {
    isas.emplace_back("scalar");
    return isas;
}

}  // namespace

Aligned aligned_bytes(std::size_t bytes) {
    void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    if (!memory) throw std::bad_alloc();
    return Aligned(memory);
}

Rect windows_over(const Kernel2d& k, const Rect& rect) {
    return {steps_to(rect.y0 + k.top - k.high + 1, k.stride_high), steps_to(rect.x0 + k.left - k.wide + 1, k.stride_wide),
            steps_to(rect.y1 + k.top, k.stride_high), steps_to(rect.x1 + k.left, k.stride_wide)};
}

Rect united(const Rect& a, const Rect& b) {
    if (a.empty()) return b;
    if (b.empty()) return a;
    return {std::min(a.y0, b.y0), std::min(a.x0, b.x0), std::max(a.y1, b.y1), std::max(a.x1, b.x1)};
}

Rect clipped(const Rect& rect, int height, int width) {
    return {std::max(rect.y0, 0), std::max(rect.x0, 0), std::min(rect.y1, height), std::min(rect.x1, width)};
}

AlignedChars zeroed_chars(std::size_t bytes) {
    AlignedChars made(static_cast<char*>(aligned_bytes(bytes).release()));
    std::memset(made.get(), 0, (bytes + 63) / 64 * 64 + 64);
    return made;
}

Plan::Plan(ThreadPool& threads, std::vector<std::string> isas)
    : isas_(with_scalar(std::move(isas))),
      rows_(first_allowed(row_functions(), isas_)),
      expand_(first_allowed(expand_kernels(), isas_)),
      pool_(threads) {}

const SumKernel& Plan::kernel(const std::string& family, int channels, int largest_product) const {
    const SumKernel* best = nullptr;
    int least = 0;
    for (const SumKernel& kernel : sum_kernels()) {
        if (family != kernel.family || std::find(isas_.begin(), isas_.end(), kernel.isa) == isas_.end()) continue;
        if (!kernel.runs_on(this_cpu())) continue;
        if (kernel.largest_product && largest_product > kernel.largest_product) continue;
        if (best && std::strcmp(best->isa, kernel.isa) != 0) break;  // another instruction set: slower
        // Of one set, blocks that leave little empty; a block costs as much as some channels more than it has.
        const int cost = (channels + kernel.block - 1) / kernel.block * (kernel.block + kWord / 2);
        if (!best || cost < least) best = &kernel, least = cost;
    }
    if (!best) refuse("no kernel of the family " + family);
    return *best;
}

int Plan::add_buffer(Form form, Size size, Border border, std::vector<int> fill, bool tight) {
    expect(!arena_, "the plan is finished");
    expect(size.channels >= 1 && size.height >= 1 && size.width >= 1, "a buffer has at least one element");
    expect(size.channels < kLargestSide && size.height < kLargestSide && size.width < kLargestSide, "a buffer is too large");
    for (const int side : {border.top, border.left, border.bottom, border.right})
        expect(side >= 0 && side < kLargestSide, "a border is not negative");
    expect(fill.size() == std::size_t(size.channels), "one fill per channel");
    Buffer made{form, size, border, pitch_of(form, size.channels), 0, 0, 0, 0, std::move(fill)};
    expect(!tight || form == Form::u8 || form == Form::i16, "only an image has no padding");
    if (tight) made.pitch = size.channels;
    made.pixel_bytes = made.pitch * element_bytes(form);
    // In 64 bits, until it is known to fit those of this machine.
    const std::int64_t row_bytes = std::int64_t(made.pixel_bytes) * (size.width + border.left + border.right);
    const std::int64_t rows = size.height + border.top + border.bottom;
    expect(row_bytes < std::int64_t(1) << 31, "a buffer is too large");
    const std::int64_t bytes = (row_bytes * rows + kTail + 63) / 64 * 64;
    expect(bytes < std::int64_t(kLargestArena - image_bytes_), "the network needs more than 2 GiB for its maps");
    made.row_bytes = static_cast<std::ptrdiff_t>(row_bytes);
    made.image_bytes = static_cast<std::ptrdiff_t>(bytes);
    image_bytes_ += std::size_t(made.image_bytes);
    buffers_.push_back(std::move(made));
    viewed_.push_back(-1);
    return static_cast<int>(buffers_.size()) - 1;
}

int Plan::add_view(int flat, Size size) {
    const Buffer& base = buffer(flat, Form::f32);
    const Border& side = base.border;
    expect(!(side.top || side.left || side.bottom || side.right) && base.size.height == 1 && base.size.width == 1, "only a flat buffer is seen as a map");
    for (const int side : {size.channels, size.height, size.width}) expect(side >= 1 && side < kLargestSide, "a view has at least one element, and is no huge map");
    Buffer made{Form::f32, size, {}, pitch_of(Form::f32, size.channels), 0, 0, base.image_bytes, 0, std::vector<int>(std::size_t(size.channels), 0)};
    made.pixel_bytes = made.pitch * 4;
    made.row_bytes = made.pixel_bytes * size.width;
    expect(made.pitch * size.width * size.height <= base.pitch, "a view has more elements than there are");
    buffers_.push_back(std::move(made));
    viewed_.push_back(flat);
    return static_cast<int>(buffers_.size()) - 1;
}

const Buffer& Plan::buffer(int id, Form form) const {
    const Buffer& found = buffer(id);
    expect(found.form == form, "a buffer of another form");
    return found;
}

void Plan::add_step(std::unique_ptr<Step> step, int variant, std::size_t scratch_bytes) {
    expect(!arena_, "the plan is finished");
    expect(scratch_bytes < kLargestArena, "a step needs too much scratch");
    scratch_bytes_ = std::max(scratch_bytes_, scratch_bytes);
    reads_.push_back(step->reads());
    writes_.push_back(step->writes());
    steps_.push_back(std::move(step));
    variants_.push_back(variant);
}

void Plan::finish(int most, std::size_t bytes) {
    expect(!arena_, "the plan is finished");
    expect(most >= 1 && most <= 4096, "the largest batch: expected 1 to 4096");
    max_batch_ = static_cast<int>(std::min<std::size_t>(std::size_t(most), std::max<std::size_t>(1, bytes / std::max<std::size_t>(1, image_bytes_))));
    for (std::size_t id = 0; id < buffers_.size(); ++id) {
        if (viewed_[id] >= 0) {
            buffers_[id].offset = buffers_[std::size_t(viewed_[id])].offset;
            continue;
        }
        buffers_[id].offset = arena_bytes_;
        arena_bytes_ += std::size_t(buffers_[id].image_bytes) * std::size_t(max_batch_) + kGuard;
    }
    arena_ = zeroed_chars(arena_bytes_);
    for (const Buffer& each : buffers_) forbid(arena_.get() + each.offset + std::size_t(max_batch_) * std::size_t(each.image_bytes));
    scales_.assign(std::size_t(scale_slots_) * std::size_t(max_batch_), 1.0f);
    for (const Buffer& each : buffers_) fill_border(each);
    for (int thread = 0; thread < pool_.threads(); ++thread) scratch_.push_back(aligned_bytes(scratch_bytes_));
}

void Plan::fill_border(const Buffer& b) {
    const Border& side = b.border;
    if (!(side.top || side.left || side.bottom || side.right)) return;
    std::vector<char> pixel(std::size_t(b.pixel_bytes), 0);
    for (int c = 0; c < b.size.channels; ++c) {
        const int value = b.fill[std::size_t(c)];
        if (b.form == Form::f32)
            reinterpret_cast<float*>(pixel.data())[c] = static_cast<float>(value);
        else
            store_code(pixel.data(), b.form, c, value);
    }
    const int rows = b.size.height + side.top + side.bottom, columns = b.size.width + side.left + side.right;
    for (int image = 0; image < max_batch_; ++image)
        for (int y = 0; y < rows; ++y)
            for (int x = 0; x < columns; ++x) {
                const bool inside = y >= side.top && y < side.top + b.size.height && x >= side.left &&
                                    x < side.left + b.size.width;
                if (!inside)
                    std::memcpy(arena_.get() + b.offset + image * b.image_bytes + y * b.row_bytes + x * b.pixel_bytes,
                                pixel.data(), pixel.size());
            }
}

void Plan::set_box(int mask_buffer, const std::vector<std::int32_t>& low, const std::vector<std::int32_t>& high) {
    for (const auto& step : steps_)
        if (step->set_box(mask_buffer, low, high)) return;
    throw std::invalid_argument("no quantizer writes that mask");
}

void Plan::check_finished() const { expect(arena_ != nullptr, "the plan is not finished"); }

void Plan::check_batch(int batch) const {
    check_finished();
    expect(batch >= 1 && batch <= max_batch_, "the batch is larger than the plan was made for");
}

void Plan::run_step(std::size_t index, int batch, const Rect& rect) {
    const Step& step = *steps_[index];
    const int parts = step.parts();
    // Weights are expanded once per piece: images are divided only where there are fewer parts than threads.
    const int divisions = std::min(batch, std::max(1, (2 * pool_.threads() - 1) / parts));
    const auto each = [&](int item, int thread) {
        const int division = item / parts;
        const int first = static_cast<int>(std::int64_t(batch) * division / divisions);
        const int last = static_cast<int>(std::int64_t(batch) * (division + 1) / divisions);
        const Work work{*this, arena_.get(), static_cast<char*>(scratch_[std::size_t(thread)].get())};
        step.run(work, item % parts, first, last, rect);
    };
    pool_.each(parts * divisions, std::ref(each));  // by reference: a std::function of the lambda itself would allocate
}

void Plan::run(int batch, int variant) {
    check_batch(batch);
    for (std::size_t i = 0; i < steps_.size(); ++i)
        if (!variants_[i] || variants_[i] == variant) run_step(i, batch, steps_[i]->whole());
}

std::vector<std::pair<std::string, double>> Plan::profile(int batch, int variant, int runs) {
    check_batch(batch);
    std::vector<std::pair<std::string, double>> found;
    for (int round = 0; round < runs; ++round) {
        std::size_t place = 0;
        for (std::size_t i = 0; i < steps_.size(); ++i) {
            if (variants_[i] && variants_[i] != variant) continue;
            timespec before, after;
            clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
            run_step(i, batch, steps_[i]->whole());
            clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
            const double ms = 1e3 * static_cast<double>(after.tv_sec - before.tv_sec) + 1e-6 * static_cast<double>(after.tv_nsec - before.tv_nsec);
            if (place == found.size()) found.emplace_back(steps_[i]->name(), ms);
            found[place].second = std::min(found[place].second, ms);
            ++place;
        }
    }
    return found;
}

void Plan::keep() {
    check_finished();
    if (!kept_) kept_ = zeroed_chars(arena_bytes_);
    for (const Buffer& b : buffers_) std::memcpy(kept_.get() + b.offset, arena_.get() + b.offset, std::size_t(b.image_bytes));
    changed_.assign(buffers_.size(), Rect{});
}

void Plan::run_changed(int source, const Rect& changed, int variant) {
    expect(kept_ != nullptr, "nothing was kept: run the whole image first");
    const Size& size = buffer(source).size;
    std::fill(changed_.begin(), changed_.end(), Rect{});
    changed_[std::size_t(source)] = clipped(changed, size.height, size.width);
    for (std::size_t i = 0; i < steps_.size(); ++i) {
        if (variants_[i] && variants_[i] != variant) continue;
        Rect reached{};
        for (const int id : reads_[i])
            if (!changed_[std::size_t(id)].empty()) reached = united(reached, steps_[i]->reached(id, changed_[std::size_t(id)]));
        if (reached.empty()) continue;
        run_step(i, 1, reached);
        for (const int id : writes_[i])
            changed_[std::size_t(id)] = united(changed_[std::size_t(id)], reached);
    }
}

void Plan::put_back() {
    expect(kept_ != nullptr, "nothing was kept: run the whole image first");
    for (std::size_t id = 0; id < buffers_.size(); ++id) {
        const Buffer& b = buffers_[id];
        const Rect rect = clipped(changed_[id], b.size.height, b.size.width);
        for (int y = rect.y0; y < rect.y1; ++y) {
            const std::size_t at = b.offset + std::size_t((y + b.border.top) * b.row_bytes + (rect.x0 + b.border.left) * b.pixel_bytes);
            std::memcpy(arena_.get() + at, kept_.get() + at, std::size_t((rect.x1 - rect.x0) * b.pixel_bytes));
        }
        changed_[id] = Rect{};
    }
}

}  // namespace bitlens
