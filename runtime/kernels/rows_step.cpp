#include "rows_step.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "quantizer_line.h"

namespace bitlens {
namespace {

std::size_t round_up(std::size_t value, std::size_t to) { return (value + to - 1) / to * to; }

// Beyond every accumulator (below 2^24), short of the thresholds of channels that do not exist.
constexpr std::int32_t kBeyond = 1 << 30;

// Everything after the sums, for a block of 32 channels.
class Stored {
public:
    Stored(const Plan& plan, Epilogue epilogue, bool is_float) : e_(std::move(epilogue)) {
        const std::size_t padded = round_up(std::size_t(e_.channels), kWord);
        for (const int side : {e_.channels, e_.rows, e_.columns}) expect(side >= 1 && side < kLargestSide, "a step stores at least one element, and no huge map");
        for (const int step : {e_.step_y, e_.step_x}) expect(step >= 1 && step <= kLargestWindow, "steps do not fit");
        for (const int origin : {e_.origin_y, e_.origin_x}) expect(origin >= 0 && origin < kLargestSide, "positions do not fit");
        if (e_.pool) {
            expect(!is_float, "only integer sums are pooled here");
            const Kernel2d& k = e_.pool->kernel;
            for (const int side : {k.high, k.wide}) expect(side >= 1 && side <= 255, "a pool's window does not fit");
            for (const int stride : {k.stride_high, k.stride_wide}) expect(stride >= 1 && stride <= kLargestWindow, "a pool's stride does not fit");
            expect(k.high * k.wide <= 255 && e_.pool->turn.size() == padded && k.top >= 0 && k.left >= 0 && k.top < k.high && k.left < k.wide,
                   "a pool's window does not fit");
            if (e_.pool->index >= 0) fits(plan, e_.pool->index, Form::index);
        }
        if (e_.sums >= 0) fits(plan, e_.sums, is_float ? Form::f32 : Form::i32);
        if (e_.affine) {
            expect(e_.affine->slope.size() == padded && e_.affine->offset.size() == padded, "slopes of another number");
            expect(e_.affine->scale_slot < plan.scale_slots(), "no such scale");
        }
        if (e_.straight_through) {
            fits(plan, e_.straight_through->mask, Form::mask);
            expect(e_.straight_through->gain.size() == padded, "gains of another number");
        }
        real_ = is_float || e_.affine;
        if (e_.addend >= 0) fits(plan, e_.addend, Form::f32);
        expect(real_ || (e_.addend < 0 && !e_.straight_through && e_.reals < 0), "integer sums meet real values");
        if (e_.reals >= 0) fits(plan, e_.reals, Form::f32);
        expect(!e_.thresholds_sums || (!is_float && e_.threshold && e_.reals >= 0), "only integer sums are compared before they are mapped");
        compares_reals_ = real_ && !e_.thresholds_sums;
        if (e_.threshold) {
            const Threshold& t = *e_.threshold;
            form_ = plan.buffer(t.codes).form;
            fits(plan, t.codes, form_);
            expect(t.levels >= 1 && t.levels <= 255 && t.code_step >= 1 && t.code_step <= 255 && t.levels * t.code_step <= 255, "codes exceed a byte");
            expect(form_ == Form::u8 || (form_ == Form::bits && t.levels == 1) || (form_ == Form::planes && t.levels == 3),
                   "the form does not fit the levels");
            // Thresholds that are the same for all channels are given once, for 32, where 32 divides the channels.
            shared_ = e_.channels % kWord == 0 && t.thresholds.size() == std::size_t(kWord) * std::size_t(t.levels);
            expect(t.turn.size() == padded && (shared_ || t.thresholds.size() == padded * std::size_t(t.levels)),
                   "thresholds of another number");
            expect(t.mask_low.size() == padded && t.mask_high.size() == padded, "a mask box of another number");
            if (t.mask >= 0) fits(plan, t.mask, Form::mask);
            if (t.levels >= kFewestLevelsOfLine) fit_lines(t);
        }
        expect(e_.sums >= 0 || e_.reals >= 0 || e_.threshold, "a step stores nothing");
    }

    const Epilogue& epilogue() const { return e_; }
    // The sums behind each pixel that is stored: the pool's window, else the pixel's own.
    Kernel2d window() const { return e_.pool ? e_.pool->kernel : Kernel2d{1, 1, 1, 1, 0, 0}; }
    std::string name() const {
        std::string name;
        if (e_.pool) name += ", max pool";
        if (e_.affine) name += ", affine";
        if (e_.straight_through) name += ", straight-through gradient";
        if (e_.addend >= 0) name += ", add";
        if (e_.threshold) name += ", threshold";
        return name;
    }
    std::size_t scratch_floats(int pixels) const { return (e_.pool ? 2 : 1) * std::size_t(pixels) * kWord; }

    std::vector<int> writes() const {
        std::vector<int> ids;
        for (const int id : {e_.sums, e_.reals, e_.pool ? e_.pool->index : -1, e_.threshold ? e_.threshold->codes : -1,
                             e_.threshold ? e_.threshold->mask : -1})
            if (id >= 0) ids.push_back(id);
        return ids;
    }

    std::vector<int> reads() const {
        std::vector<int> ids;
        if (e_.addend >= 0) ids.push_back(e_.addend);
        if (e_.straight_through) ids.push_back(e_.straight_through->mask);
        return ids;
    }

    bool set_box(int mask, const std::vector<std::int32_t>& low, const std::vector<std::int32_t>& high) {
        if (!e_.threshold || e_.threshold->mask != mask || mask < 0) return false;
        expect(low.size() == e_.threshold->mask_low.size() && high.size() == low.size(), "a mask box of another number");
        e_.threshold->mask_low = low;
        e_.threshold->mask_high = high;
        return true;
    }

    // `sums`: row(s) of T with `sums_step` elements per pixel, channels of block `word` first; a pool's further rows
    // follow at `row_step`. Stores columns x0..x0+pixels-1 of row y.
    template <class T>
    void store(const Work& work, int image, int word, int y, int x0, int pixels, const T* sums, std::ptrdiff_t sums_step,
               std::ptrdiff_t row_step, void* scratch) const {
        const RowFunctions& rows = work.plan.rows();
        const std::size_t c0 = std::size_t(word) * kWord;
        auto* spare = static_cast<char*>(scratch);
        if constexpr (std::is_same_v<T, std::int32_t>) {
            if (e_.pool) {
                auto* pooled = reinterpret_cast<std::int32_t*>(spare);
                spare += std::size_t(pixels) * kWord * sizeof(std::int32_t);
                std::uint8_t* index = nullptr;
                std::ptrdiff_t index_step = 0;
                if (e_.pool->index >= 0) index = at<std::uint8_t>(work, e_.pool->index, image, y, x0, c0, &index_step);
                const Kernel2d& k = e_.pool->kernel;
                rows.max_pool_i32(sums, sums_step, row_step, k.high, k.wide, k.stride_wide, pixels, e_.pool->turn.data() + c0, pooled,
                                  index, index_step);
                sums = pooled;
                sums_step = kWord;
            }
        }
        if (e_.sums >= 0) {
            std::ptrdiff_t step;
            T* out = at<T>(work, e_.sums, image, y, x0, c0, &step);
            const std::size_t bytes = std::size_t(channels(work, e_.sums, c0)) * sizeof(T);
            for (int p = 0; p < pixels; ++p) std::memcpy(out + p * step, sums + p * sums_step, bytes);
        }
        if constexpr (std::is_same_v<T, std::int32_t>) {
            if (e_.threshold && !compares_reals_) threshold(rows.threshold_i32, work, image, word, y, x0, pixels, sums, sums_step);
        }
        if (!real_) return;
        // Real values go where they are kept, else into scratch; so do those to which something is still to be added,
        // because it may lie where they are kept.
        std::ptrdiff_t step = kWord;
        auto* reals = reinterpret_cast<float*>(spare);
        int count = kWord;
        if (e_.reals >= 0) {
            reals = at<float>(work, e_.reals, image, y, x0, c0, &step);
            count = channels(work, e_.reals, c0);
        } else if (e_.addend >= 0) {
            count = channels(work, e_.addend, c0);
        }
        const float* values = nullptr;
        std::ptrdiff_t values_step = sums_step;
        if constexpr (std::is_same_v<T, float>) values = sums;
        const float* addend = nullptr;
        std::ptrdiff_t addend_step = 0;
        if (e_.addend >= 0) addend = at<float>(work, e_.addend, image, y, x0, c0, &addend_step);
        const bool adds_later = addend && (!e_.affine || e_.straight_through);
        float* const between = adds_later ? reinterpret_cast<float*>(spare) : reals;
        const std::ptrdiff_t between_step = adds_later ? kWord : step;
        if (e_.affine) {
            const float* slope = e_.affine->slope.data() + c0;
            float scaled[kWord];
            if (e_.affine->scale_slot >= 0) {
                const float scale = work.plan.scale(e_.affine->scale_slot, image);
                for (int c = 0; c < kWord; ++c) scaled[c] = slope[c] * scale;
                slope = scaled;
            }
            const float* term = adds_later ? nullptr : addend;
            const float* offset = e_.affine->offset.data() + c0;
            if constexpr (std::is_same_v<T, float>)
                rows.affine_f32(sums, sums_step, pixels, slope, offset, term, addend_step, count, between, between_step);
            else
                rows.affine(sums, sums_step, pixels, slope, offset, term, addend_step, count, between, between_step);
            values = between;
            values_step = between_step;
        }
        if (e_.straight_through) {
            std::ptrdiff_t mask_step;
            const std::uint32_t* mask = words(work, e_.straight_through->mask, image, y, x0, word, &mask_step);
            rows.ste_gradient(values, values_step, pixels, mask, mask_step, work.plan.guided_floor,
                              e_.straight_through->gain.data() + c0, count, between, between_step);
            values = between;
            values_step = between_step;
        }
        if (adds_later) {
            for (int p = 0; p < pixels; ++p)
                rows.add(values + p * values_step, addend + p * addend_step, std::size_t(count), reals + p * step);
            values = reals;
            values_step = step;
        }
        if (values != reals && e_.reals >= 0)
            for (int p = 0; p < pixels; ++p)
                std::memcpy(reals + p * step, values + p * values_step, std::size_t(count) * sizeof(float));
        // A map of 16 channels is read 32 wide here too: what the next pixel holds passes no threshold and no mask.
        if (e_.threshold && compares_reals_) threshold(rows.threshold_f32, work, image, word, y, x0, pixels, values, values_step);
    }

private:
    void fits(const Plan& plan, int id, Form form) const {
        const Buffer& b = plan.buffer(id, form);
        expect(b.size.channels == e_.channels, "a step and its buffer differ in channels");
        expect(last_start(e_.rows, e_.step_y, -e_.origin_y) < b.size.height && last_start(e_.columns, e_.step_x, -e_.origin_x) < b.size.width,
               "a step stores outside its buffer");
    }

    int channels(const Work& work, int id, std::size_t c0) const {
        return static_cast<int>(std::min<std::ptrdiff_t>(kWord, work.plan.buffer(id).pitch - std::ptrdiff_t(c0)));
    }

    template <class T>
    T* at(const Work& work, int id, int image, int y, int x, std::size_t c0, std::ptrdiff_t* step) const {
        const Buffer& b = work.plan.buffer(id);
        *step = b.pitch * e_.step_x;
        return reinterpret_cast<T*>(work.plan.pixel(work, b, image, e_.origin_y + y * e_.step_y, e_.origin_x + x * e_.step_x)) + c0;
    }

    std::uint32_t* words(const Work& work, int id, int image, int y, int x, int word, std::ptrdiff_t* step) const {
        return at<std::uint32_t>(work, id, image, y, x, std::size_t(word), step);
    }

    // One line for each block of channels, or none at all.
    void fit_lines(const Threshold& t) {
        const std::size_t block = std::size_t(kWord) * std::size_t(t.levels);
        lines_.resize(t.thresholds.size() / block);
        for (std::size_t word = 0; word < lines_.size(); ++word) {
            const std::int32_t* thresholds = t.thresholds.data() + word * block;
            const int channels = std::min(e_.channels - static_cast<int>(word) * kWord, kWord);
            const bool lies = compares_reals_ ? fit_line(reinterpret_cast<const float*>(thresholds), t.levels, channels, lines_[word])
                                              : fit_line(thresholds, t.levels, channels, lines_[word]);
            if (!lies) return lines_.clear();
        }
    }

    template <class T>
    void threshold(const ThresholdFunctions<T>& functions, const Work& work, int image, int word, int y, int x0, int pixels,
                   const T* values, std::ptrdiff_t values_step) const {
        const Threshold& t = *e_.threshold;
        const std::size_t c0 = std::size_t(word) * kWord;
        const bool masked = t.mask >= 0;
        const Quantizer<T> quantizer{t.levels, t.turn.data() + c0,
                                     reinterpret_cast<const T*>(t.thresholds.data() + (shared_ ? 0 : c0 * std::size_t(t.levels))),
                                     masked ? reinterpret_cast<const T*>(t.mask_low.data() + c0) : nullptr,
                                     masked ? reinterpret_cast<const T*>(t.mask_high.data() + c0) : nullptr,
                                     lines_.empty() ? nullptr : &lines_[shared_ ? 0 : std::size_t(word)]};
        std::uint32_t* mask = nullptr;
        std::ptrdiff_t mask_step = 0, step;
        if (masked) mask = words(work, t.mask, image, y, x0, word, &mask_step);
        if (form_ == Form::u8) {
            auto* out = at<std::uint8_t>(work, t.codes, image, y, x0, c0, &step);
            functions.codes(values, values_step, pixels, quantizer, t.code_step, channels(work, t.codes, c0), out, step, mask, mask_step);
        } else if (form_ == Form::bits) {
            std::uint32_t* out = words(work, t.codes, image, y, x0, word, &step);
            functions.bits(values, values_step, pixels, quantizer, out, step, mask, mask_step);
        } else {
            std::uint32_t* out = words(work, t.codes, image, y, x0, 2 * word, &step);
            functions.planes(values, values_step, pixels, quantizer, out, step, mask, mask_step);
        }
    }

    Epilogue e_;
    bool real_ = false, compares_reals_ = false, shared_ = false;
    std::vector<QuantizerLine> lines_;  // of the threshold's blocks of channels
    Form form_ = Form::u8;
};

class ConvolutionStep final : public Step {
public:
    ConvolutionStep(Plan& plan, Convolution convolution, Epilogue epilogue)
        : c_(std::move(convolution)), stored_(plan, std::move(epilogue), c_.family == "conv2d_f32") {
        const Epilogue& e = stored_.epilogue();
        const Buffer& source = plan.buffer(c_.source, source_form());
        expect(c_.taps_high >= 1 && c_.taps_wide >= 1 && c_.groups >= 1 && c_.taps_high <= 4096 && c_.taps_wide <= 4096, "taps do not fit");
        for (const int first : {c_.first_y, c_.first_x}) expect(first >= 0 && first < kLargestSide, "positions of a convolution do not fit");
        for (const int stride : {c_.stride_high, c_.stride_wide}) expect(stride >= 1 && stride <= kLargestWindow, "strides of a convolution do not fit");
        for (const int side : {c_.rows, c_.columns}) expect(side >= 1 && side < kLargestSide, "a convolution has at least one sum, and no huge map");
        window_ = stored_.window();
        // A pool's padding may stand at every side, but its windows see at least one sum.
        expect(last_start(e.rows, window_.stride_high, window_.top) < c_.rows && last_start(e.columns, window_.stride_wide, window_.left) < c_.columns,
               "the epilogue reads more sums than there are");
        const std::int64_t height = source.size.height + source.border.top + source.border.bottom;
        const std::int64_t width = source.size.width + source.border.left + source.border.right;
        expect(last_start(c_.rows, c_.stride_high, -c_.first_y) + c_.taps_high <= height, "rows read outside the source");
        const std::int64_t last = last_start(c_.columns, c_.stride_wide, -c_.first_x);
        group_bytes_ = c_.family == "conv2d_w2a2" ? 8 : 4;
        const std::int64_t tap_bytes = std::int64_t(c_.groups) * group_bytes_;
        if (c_.merged)  // up to the group's own width over the end of a row; the arena's tail takes the last one
            expect(last * source.pixel_bytes + tap_bytes <= source.row_bytes + 3 && c_.taps_wide == 1, "columns read outside the source");
        else
            expect(last + c_.taps_wide <= width && tap_bytes <= source.pixel_bytes, "columns read outside the source");
        kernel_ = &plan.kernel(c_.family, e.channels, 2 * c_.largest_code * c_.largest_weight);
        const std::size_t taps = std::size_t(c_.taps_high) * std::size_t(c_.taps_wide), groups = std::size_t(c_.groups);
        expect(taps * groups < (1u << 28), "a kernel is too large");
        const std::size_t words = round_up(std::size_t(e.channels), kWord) / kWord;
        block_words_ = kernel_->block / kWord;
        blocks_ = static_cast<int>((words + std::size_t(block_words_) - 1) / std::size_t(block_words_));
        expect(c_.start.size() == words * kWord, "starts of another number");
        c_.start.resize(std::size_t(blocks_) * std::size_t(kernel_->block), 0);
        pack(plan, taps, groups, words);
        columns_ = (e.columns - 1) * window_.stride_wide + window_.wide;
    }

    // Per thread: a panel, the rows of sums of a block, and what the epilogue needs.
    std::size_t scratch_bytes() const {
        return panel_scratch_ + sums_bytes() + stored_.scratch_floats(columns_) * sizeof(float) + 64;
    }
    const SumKernel& kernel() const { return *kernel_; }
    std::size_t weight_bytes() const { return packed_bytes_; }

    std::string name() const override {
        const Epilogue& e = stored_.epilogue();
        return std::string(kernel_->family) + "__" + kernel_->isa + " " + std::to_string(c_.taps_high) + "x" + std::to_string(c_.taps_wide) + "x" +
               std::to_string(c_.groups) + " groups to " + std::to_string(e.channels) + "x" + std::to_string(c_.rows) + "x" + std::to_string(c_.columns) +
               stored_.name();
    }
    int parts() const override { return blocks_; }
    std::vector<int> writes() const override { return stored_.writes(); }
    std::vector<int> reads() const override {
        std::vector<int> ids = stored_.reads();
        ids.push_back(c_.source);
        return ids;
    }
    Rect whole() const override { return {0, 0, stored_.epilogue().rows, stored_.epilogue().columns}; }
    bool set_box(int mask, const std::vector<std::int32_t>& low, const std::vector<std::int32_t>& high) override {
        return stored_.set_box(mask, low, high);
    }

    Rect reached(int source, const Rect& changed) const override {
        const Epilogue& e = stored_.epilogue();
        // A shortcut reads its source in its own place too.
        const std::vector<int> at_place = stored_.reads();
        const bool is_added = std::find(at_place.begin(), at_place.end(), source) != at_place.end();
        const Rect same = is_added ? clipped(changed, e.rows, e.columns) : Rect{};
        return source == c_.source ? united(same, field(changed)) : same;
    }

    // Outputs whose taps, or whose window of taps, see any of `changed`.
    Rect field(const Rect& changed) const {
        const Epilogue& e = stored_.epilogue();
        const Border& border = source_border_;
        const int wide = c_.merged ? merged_taps_ : c_.taps_wide;
        const Rect sums{steps_to(changed.y0 + border.top - c_.first_y - c_.taps_high + 1, c_.stride_high),
                        steps_to(changed.x0 + border.left - c_.first_x - wide + 1, c_.stride_wide),
                        steps_to(changed.y1 + border.top - c_.first_y, c_.stride_high),
                        steps_to(changed.x1 + border.left - c_.first_x, c_.stride_wide)};
        return clipped(windows_over(window_, sums), e.rows, e.columns);
    }

    void run(const Work& work, int part, int first_image, int last_image, const Rect& rect) const override {
        const Epilogue& e = stored_.epilogue();
        const Buffer& source = work.plan.buffer(c_.source);
        const void* weights = packed_.get() + std::size_t(part) * block_bytes_;
        if (panel_scratch_) weights = expanded(work, weights);
        char* sums = work.scratch + panel_scratch_;
        char* spare = sums + sums_bytes();
        const std::size_t c0 = std::size_t(part) * std::size_t(kernel_->block);
        const int words = std::min<int>(block_words_, static_cast<int>((std::size_t(e.channels) + kWord - 1) / kWord) - part * block_words_);
        const int down = window_.stride_high;
        // Columns of sums that the rectangle needs; those outside the map are padding.
        const int x0 = rect.x0 * window_.stride_wide - window_.left, pixels = (rect.x1 - rect.x0 - 1) * window_.stride_wide + window_.wide;
        const int inside0 = std::max(x0, 0), inside1 = std::min(x0 + pixels, c_.columns);
        const std::ptrdiff_t row_step = std::ptrdiff_t(pixels) * kernel_->block;
        Row row{nullptr, source.row_bytes, source.pixel_bytes, c_.stride_wide * source.pixel_bytes,
                c_.taps_high, c_.taps_wide, c_.groups, inside1 - inside0};
        if (inside1 - inside0 < pixels) fill_padding(reinterpret_cast<std::int32_t*>(sums), c0, words, std::ptrdiff_t(window_.high) * pixels);
        for (int image = first_image; image < last_image; ++image) {
            const char* map = work.arena + source.offset + image * source.image_bytes;
            for (int y = rect.y0; y < rect.y1; ++y) {
                // Where windows overlap, their last rows are the first ones of the next: they stay, and the pool sees its
                // rows in a circle, or they move up where the first winner is wanted.
                const int kept = y > rect.y0 ? std::max(window_.high - down, 0) : 0;
                if (kept && e.pool->index >= 0) std::memmove(sums, sums + down * row_step * 4, std::size_t(kept * row_step) * 4);
                for (int k = kept; k < window_.high; ++k) {
                    const int sums_y = y * down - window_.top + k;
                    const int place = e.pool && e.pool->index < 0 ? ((y - rect.y0) * down + k) % window_.high : k;
                    char* out = sums + place * row_step * 4;
                    if (sums_y < 0 || sums_y >= c_.rows) {
                        fill_padding(reinterpret_cast<std::int32_t*>(out), c0, words, pixels);
                        continue;
                    }
                    out += std::ptrdiff_t(inside0 - x0) * kernel_->block * 4;
                    row.source = map + (c_.first_y + sums_y * c_.stride_high) * source.row_bytes +
                                 (c_.first_x + inside0 * c_.stride_wide) * source.pixel_bytes;
                    if (kernel_->run)
                        kernel_->run(row, weights, c_.start.data() + c0, reinterpret_cast<std::int32_t*>(out));
                    else
                        kernel_->run_f32(row, weights, reinterpret_cast<const float*>(c_.start.data() + c0), reinterpret_cast<float*>(out));
                }
                for (int word = 0; word < words; ++word) {
                    const int place = part * block_words_ + word, stored = rect.x1 - rect.x0;
                    if (kernel_->run)
                        stored_.store(work, image, place, y, rect.x0, stored, reinterpret_cast<const std::int32_t*>(sums) + word * kWord,
                                      kernel_->block, row_step, spare);
                    else
                        stored_.store(work, image, place, y, rect.x0, stored, reinterpret_cast<const float*>(sums) + word * kWord,
                                      kernel_->block, row_step, spare);
                }
            }
        }
    }

private:
    // Sums that never win a pool, for some pixels of a block.
    void fill_padding(std::int32_t* sums, std::size_t c0, int words, std::ptrdiff_t pixels) const {
        const std::vector<std::int32_t>& turn = stored_.epilogue().pool->turn;
        for (std::ptrdiff_t p = 0; p < pixels; ++p)
            for (int c = 0; c < words * kWord; ++c)
                sums[p * kernel_->block + c] = turn[c0 + std::size_t(c)] ? kBeyond : -kBeyond;
    }

    Form source_form() const {
        if (c_.family == "conv2d_w1a1") return Form::bits;
        if (c_.family == "conv2d_w2a2") return Form::planes;
        if (c_.family == "conv2d_i8") return Form::u8;
        if (c_.family == "conv2d_i16") return Form::i16;
        if (c_.family != "conv2d_f32") refuse("no kernel of the family " + c_.family);
        return Form::f32;
    }

    std::size_t sums_bytes() const {
        return round_up(std::size_t(window_.high) * std::size_t(columns_) * std::size_t(kernel_->block) * 4, 64);
    }

    void pack(const Plan& plan, std::size_t taps, std::size_t groups, std::size_t words) {
        const Buffer& source = plan.buffer(c_.source);
        source_border_ = source.border;
        merged_taps_ = static_cast<int>((std::ptrdiff_t(groups) * group_bytes_ + source.pixel_bytes - 1) / source.pixel_bytes);
        const std::vector<std::uint8_t>& given = c_.weights;
        if (kernel_->pack) {
            const std::size_t of_channel = taps * groups * std::size_t(group_bytes_);
            expect(given.size() == words * kWord * of_channel && c_.bits == 0, "weights of another length");
            block_bytes_ = round_up(kernel_->packed_bytes(static_cast<int>(taps), static_cast<int>(groups)), 64);
            packed_bytes_ = block_bytes_ * std::size_t(blocks_);
            packed_ = zeroed_chars(packed_bytes_);
            const std::size_t canonical = std::size_t(kernel_->block) * of_channel;
            std::vector<std::uint8_t> padded(given);
            padded.resize(canonical * std::size_t(blocks_), 0);
            for (int block = 0; block < blocks_; ++block)
                kernel_->pack(padded.data() + std::size_t(block) * canonical, static_cast<int>(taps), static_cast<int>(groups),
                              packed_.get() + std::size_t(block) * block_bytes_);
        } else {
            const int per_group = c_.family == "conv2d_i8" ? 4 : c_.family == "conv2d_i16" ? 2 : 1;
            count_ = taps * groups * kWord * std::size_t(per_group);
            const bool is_f32 = c_.family == "conv2d_f32";
            if (c_.family == "conv2d_i16")
                expect(c_.bits == 16, "conv2d_i16 takes weights of 16 bits");
            else
                expect(c_.bits == 1 || c_.bits == 2 || c_.bits == 4 || c_.bits == 8 || (is_f32 && c_.bits == 32), "weights of a width that is not known");
            const std::size_t bytes = count_ * std::size_t(c_.bits) / 8;
            expect(given.size() == bytes * words, "weights of another length");
            block_bytes_ = round_up(bytes, 64);
            packed_bytes_ = block_bytes_ * words;
            packed_ = zeroed_chars(packed_bytes_);
            for (std::size_t word = 0; word < words; ++word)
                std::memcpy(packed_.get() + word * block_bytes_, given.data() + word * bytes, bytes);
            const bool as_it_is = c_.bits == 32 || c_.bits == 16 || (c_.bits == 8 && !is_f32);
            panel_scratch_ = as_it_is ? 0 : round_up(count_ * (is_f32 ? 4 : 1), 64);
            if (kernel_->activation_offset) correct_starts(plan);
        }
        c_.weights.clear();
        c_.weights.shrink_to_fit();
    }

    // A kernel that multiplies x - offset gets the offset's share back.
    void correct_starts(const Plan& plan) {
        std::vector<std::int8_t> panel(count_);
        for (int block = 0; block < blocks_; ++block) {
            const auto* fields = reinterpret_cast<const std::uint8_t*>(packed_.get()) + std::size_t(block) * block_bytes_;
            plan.expand().to_i8(fields, c_.bits, c_.low, c_.step, count_, panel.data());
            for (std::size_t i = 0; i < count_; ++i) {
                std::int32_t& start = c_.start[std::size_t(block) * kWord + i / 4 % kWord];
                start = static_cast<std::int32_t>(static_cast<std::uint32_t>(start) + static_cast<std::uint32_t>(kernel_->activation_offset * panel[i]));
            }
        }
    }

    const void* expanded(const Work& work, const void* fields) const {
        const auto* packed = static_cast<const std::uint8_t*>(fields);
        const ExpandKernel& expand = work.plan.expand();
        if (c_.family == "conv2d_f32")
            expand.to_f32(packed, c_.bits, c_.low, c_.step, count_, reinterpret_cast<float*>(work.scratch));
        else
            expand.to_i8(packed, c_.bits, c_.low, c_.step, count_, reinterpret_cast<std::int8_t*>(work.scratch));
        return work.scratch;
    }

    Convolution c_;
    Stored stored_;
    Kernel2d window_{};
    const SumKernel* kernel_ = nullptr;
    Border source_border_;
    AlignedChars packed_;
    std::size_t block_bytes_ = 0, packed_bytes_ = 0, panel_scratch_ = 0, count_ = 0;
    int blocks_ = 0, block_words_ = 1, columns_ = 0, group_bytes_ = 4, merged_taps_ = 1;
};

class PixelsStep final : public Step {
public:
    PixelsStep(Plan& plan, Pixels pixels, Epilogue epilogue)
        : source_(pixels.source), is_float_(plan.buffer(pixels.source).form == Form::f32), stored_(plan, std::move(epilogue), is_float_) {
        const Epilogue& e = stored_.epilogue();
        const Buffer& source = plan.buffer(source_, is_float_ ? Form::f32 : Form::i32);
        window_ = stored_.window();
        for (const int first : {pixels.first_y, pixels.first_x}) expect(first >= 0 && first < kLargestSide, "positions of pixels do not fit");
        first_y_ = pixels.first_y - source.border.top;
        first_x_ = pixels.first_x - source.border.left;
        expect(source.size.channels == e.channels &&
                   last_start(e.rows, window_.stride_high, -first_y_) + window_.high <= source.size.height + source.border.bottom &&
                   last_start(e.columns, window_.stride_wide, -first_x_) + window_.wide <= source.size.width + source.border.right,
               "the source is smaller than what is stored");
        expect(window_.top == 0 && window_.left == 0, "pixels of a buffer are padded by its border");
        expect(e.origin_y == 0 && e.origin_x == 0 && e.step_y == 1 && e.step_x == 1, "pixels stay where they are");
    }

    std::size_t scratch_bytes() const { return stored_.scratch_floats(stored_.epilogue().columns) * sizeof(float) + 64; }
    std::string name() const override {
        const Epilogue& e = stored_.epilogue();
        return "pixels " + std::to_string(e.channels) + "x" + std::to_string(e.rows) + "x" + std::to_string(e.columns) + stored_.name();
    }
    int parts() const override { return (stored_.epilogue().channels + kWord - 1) / kWord; }
    std::vector<int> writes() const override { return stored_.writes(); }
    std::vector<int> reads() const override {
        std::vector<int> ids = stored_.reads();
        ids.push_back(source_);
        return ids;
    }
    Rect whole() const override { return {0, 0, stored_.epilogue().rows, stored_.epilogue().columns}; }
    Rect reached(int source, const Rect& changed) const override {
        const Epilogue& e = stored_.epilogue();
        if (source != source_) return clipped(changed, e.rows, e.columns);
        const Rect moved{changed.y0 - first_y_, changed.x0 - first_x_, changed.y1 - first_y_, changed.x1 - first_x_};
        return clipped(windows_over(window_, moved), e.rows, e.columns);
    }
    bool set_box(int mask, const std::vector<std::int32_t>& low, const std::vector<std::int32_t>& high) override {
        return stored_.set_box(mask, low, high);
    }

    void run(const Work& work, int part, int first, int last, const Rect& rect) const override {
        if (is_float_)
            run_as<float>(work, part, first, last, rect);
        else
            run_as<std::int32_t>(work, part, first, last, rect);
    }

private:
    template <class T>
    void run_as(const Work& work, int part, int first, int last, const Rect& rect) const {
        const Buffer& source = work.plan.buffer(source_);
        for (int image = first; image < last; ++image)
            for (int y = rect.y0; y < rect.y1; ++y) {
                const char* pixel = work.plan.pixel(work, source, image, first_y_ + y * window_.stride_high, first_x_ + rect.x0 * window_.stride_wide);
                stored_.store(work, image, part, y, rect.x0, rect.x1 - rect.x0,
                              reinterpret_cast<const T*>(pixel) + std::ptrdiff_t(part) * kWord, source.pitch,
                              source.row_bytes / std::ptrdiff_t(sizeof(T)), work.scratch);
            }
    }

    int source_;
    bool is_float_;
    Kernel2d window_{};
    int first_y_ = 0, first_x_ = 0;
    Stored stored_;
};

}  // namespace

std::string add_convolution(Plan& plan, Convolution convolution, Epilogue epilogue, int variant) {
    auto step = std::make_unique<ConvolutionStep>(plan, std::move(convolution), std::move(epilogue));
    const std::string name = std::string(step->kernel().family) + "__" + step->kernel().isa;
    if (std::find(plan.kernels_used.begin(), plan.kernels_used.end(), name) == plan.kernels_used.end()) plan.kernels_used.push_back(name);
    plan.weight_bytes += step->weight_bytes();
    const std::size_t scratch = step->scratch_bytes();
    plan.add_step(std::move(step), variant, scratch);
    return name;
}

void add_pixels(Plan& plan, Pixels pixels, Epilogue epilogue, int variant) {
    auto step = std::make_unique<PixelsStep>(plan, pixels, std::move(epilogue));
    const std::size_t scratch = step->scratch_bytes();
    plan.add_step(std::move(step), variant, scratch);
}

}  // namespace bitlens
