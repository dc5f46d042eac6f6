// A plan: a program laid out for this processor. Buffers in one arena, and steps that fill them in order.
//
// Everything is checked when a buffer or a step is added (a wrong plan throws std::invalid_argument) so that running
// needs no checks: steps only touch buffers, whose sizes are known.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "checks.h"
#include "kernel_list.h"
#include "thread_pool.h"

namespace bitlens {

// How the elements of a map are kept, NHWC with a border of explicit codes.
enum class Form {
    bits,    // 32 channels a word: 1 for the higher of two codes
    planes,  // two words for 32 channels: the two bits of a code 0..3
    u8,      // code - lowest code, a multiple of 4 bytes per pixel
    i16,     // codes, an even number per pixel
    i32,     // accumulators, 16 per pixel or a multiple of 32
    f32,     // reals, 16 per pixel or a multiple of 32
    mask,    // 32 channels a word: 1 where the straight-through gradient passes
    index,   // which cell of a pool's window won, y * kernel width + x: bytes, a multiple of 32 per pixel
};

struct Border {
    int top = 0, left = 0, bottom = 0, right = 0;
};

struct Size {
    int channels = 0, height = 0, width = 0;
};

constexpr int kLargestSide = 1 << 20;    // of a map, in channels, rows or columns
constexpr int kLargestWindow = 1 << 12;  // side, stride or padding of a window

// Rows y0..y1-1 and columns x0..x1-1.
struct Rect {
    int y0 = 0, x0 = 0, y1 = 0, x1 = 0;
    bool empty() const { return y0 >= y1 || x0 >= x1; }
};

// A window that moves over a map.
struct Kernel2d {
    int high, wide, stride_high, stride_wide, top, left;  // top, left: padding
};

// Where the last of `count` windows starts. In 64 bits: what Python says is not checked yet.
inline std::int64_t last_start(int count, int stride, int padding) { return (std::int64_t(count) - 1) * stride - padding; }
// Steps of `stride` from 0 until `value` is reached or passed.
inline int steps_to(int value, int stride) { return value <= 0 ? 0 : (value + stride - 1) / stride; }
// The windows that see any of `rect`.
Rect windows_over(const Kernel2d& kernel, const Rect& rect);

Rect united(const Rect& a, const Rect& b);
Rect clipped(const Rect& rect, int height, int width);

struct Buffer {
    Form form;
    Size size;
    Border border;
    std::ptrdiff_t pitch;        // elements per pixel
    std::ptrdiff_t pixel_bytes;  // pitch * bytes of an element
    std::ptrdiff_t row_bytes;    // of a row with its border
    std::ptrdiff_t image_bytes;  // of a map with its border, and a tail that a kernel may read over; a multiple of 64
    std::size_t offset = 0;      // of the first image in the arena
    std::vector<int> fill;       // what stands in the border, per channel
};

struct FreeAligned {
    void operator()(void* memory) const { std::free(memory); }
};
using Aligned = std::unique_ptr<void, FreeAligned>;
using AlignedChars = std::unique_ptr<char, FreeAligned>;
Aligned aligned_bytes(std::size_t bytes);
AlignedChars zeroed_chars(std::size_t bytes);

class Plan;

// What a step sees while it runs.
struct Work {
    Plan& plan;
    char* arena;
    char* scratch;  // of this thread, at least Plan::scratch_bytes()
};

class Step {
public:
    virtual ~Step() = default;
    virtual std::string name() const = 0;  // for people
    // Independent pieces of one image; every piece writes elements that no other one does.
    virtual int parts() const = 0;
    // Fill `rect` of what this step writes, for images first..last-1.
    virtual void run(const Work& work, int part, int first, int last, const Rect& rect) const = 0;
    virtual std::vector<int> reads() const = 0;
    virtual std::vector<int> writes() const = 0;
    // The rows and columns written, and those of them that depend on a changed rectangle of buffer `source`.
    virtual Rect whole() const = 0;
    virtual Rect reached(int source, const Rect& changed) const = 0;
    // Give the quantizer that writes `mask_buffer` another straight-through box; false if it is not this step's.
    virtual bool set_box(int, const std::vector<std::int32_t>&, const std::vector<std::int32_t>&) { return false; }
};

class Plan {
public:
    // `threads`: outlives the plan; plans that share it run one at a time. `isas`: names of the instruction sets that may
    // be used; "scalar" always may.
    Plan(ThreadPool& threads, std::vector<std::string> isas);

    int max_batch() const { return max_batch_; }  // 0 until the plan is finished
    int threads() const { return pool_.threads(); }
    const RowFunctions& rows() const { return *rows_; }
    const ExpandKernel& expand() const { return *expand_; }
    // The kernel of a family for so many output channels; for conv2d_i8 with the largest byte and weight.
    const SumKernel& kernel(const std::string& family, int channels, int largest_product = 0) const;

    // `tight`: pixels of u8 or i16 stand side by side without padding, for an image whose rows of taps are merged.
    int add_buffer(Form form, Size size, Border border, std::vector<int> fill, bool tight = false);
    // The memory of a flat buffer without a border (height = width = 1) seen as a map of f32.
    int add_view(int flat, Size size);
    int add_scale_slot() { return scale_slots_++; }
    int scale_slots() const { return scale_slots_; }
    float& scale(int slot, int image) { return scales_[std::size_t(slot) * std::size_t(max_batch_) + std::size_t(image)]; }
    // `variant`: 0 for a step that always runs, else it runs only where `run` is told this number.
    void add_step(std::unique_ptr<Step> step, int variant, std::size_t scratch_bytes);
    // Lay the arena out for as many images as fit into `bytes`, at least 1 and at most `most`.
    void finish(int most, std::size_t bytes);

    const Buffer& buffer(int id) const {
        if (id < 0 || std::size_t(id) >= buffers_.size()) refuse("there is no such buffer");
        return buffers_[std::size_t(id)];
    }
    const Buffer& buffer(int id, Form form) const;
    std::size_t arena_bytes() const { return arena_bytes_; }
    std::size_t weight_bytes = 0;  // resident packed weights
    std::vector<std::string> kernels_used;
    float guided_floor = 0.0f;

    void set_box(int mask_buffer, const std::vector<std::int32_t>& low, const std::vector<std::int32_t>& high);
    void check_batch(int batch) const;
    void run(int batch, int variant);
    // Name and shortest CPU time in ms of each step, over some runs.
    std::vector<std::pair<std::string, double>> profile(int batch, int variant, int runs);
    // Incremental forward of image 0: `keep` what a whole run computed, write a rectangle of `source`, run again only
    // what it reaches, read the result, put everything back.
    void keep();
    void run_changed(int source, const Rect& changed, int variant);
    void put_back();

    char* image(int id, int image) { return arena_.get() + buffer(id).offset + std::size_t(image) * std::size_t(buffer(id).image_bytes); }
    char* pixel(const Work& work, const Buffer& b, int image, int y, int x) const {
        return work.arena + b.offset + image * b.image_bytes + (y + b.border.top) * b.row_bytes +
               (x + b.border.left) * b.pixel_bytes;
    }

private:
    void run_step(std::size_t index, int batch, const Rect& rect);
    void fill_border(const Buffer& buffer);
    void check_finished() const;

    int max_batch_ = 0, scale_slots_ = 0;
    std::vector<std::string> isas_;
    const RowFunctions* rows_;
    const ExpandKernel* expand_;
    ThreadPool& pool_;
    std::vector<Buffer> buffers_;
    std::vector<int> viewed_;    // per buffer, the one whose memory it shares, or -1
    std::vector<float> scales_;  // of int8 gradients: what one step of a byte is worth
    std::vector<std::unique_ptr<Step>> steps_;
    std::vector<int> variants_;
    std::vector<std::vector<int>> reads_, writes_;  // of each step
    std::size_t image_bytes_ = 0, arena_bytes_ = 0, scratch_bytes_ = 0;
    AlignedChars arena_, kept_;
    std::vector<Aligned> scratch_;
    std::vector<Rect> changed_;  // per buffer, of the last run_changed
};

}  // namespace bitlens
