#include "thread_pool.h"

namespace bitlens {
namespace {

// A layer takes tens of microseconds, a sleeping thread tens of microseconds to wake: look this often before sleeping.
constexpr int kLooks = 20000;

constexpr std::uint32_t kNoItem = 0xffffffff;

std::uint32_t round_of(std::uint64_t state) { return static_cast<std::uint32_t>(state >> 32); }

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
    try {
        for (int thread = 1; thread < threads; ++thread) workers_.emplace_back([this, thread] { serve(thread); });
    } catch (...) {  // the system has no more threads: those that run must be joined before their objects go
        stop();
        throw;
    }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::each(int items, const std::function<void(int, int)>& work) {
    if (workers_.empty() || items < 2) {
        for (int item = 0; item < items; ++item) work(item, 0);
        return;
    }
    {
        const std::lock_guard lock(mutex_);
        // A round without items first, so that whoever is late in the last one takes none by the new number of items.
        const std::uint32_t round = round_of(state_);
        state_ = std::uint64_t(round + 1) << 32 | kNoItem;
        work_.store(&work, std::memory_order_release);
        items_.store(static_cast<std::uint32_t>(items), std::memory_order_release);
        done_ = 0;
        state_.store(std::uint64_t(round + 2) << 32, std::memory_order_release);
    }
    wake_.notify_all();
    take(round_of(state_), 0);
    // Waits for items, not for threads: a worker that has not begun may come when the round is over, and finds nothing.
    for (int look = 0; done_.load(std::memory_order_acquire) < items; look += look < kLooks) look < kLooks ? pause() : std::this_thread::yield();
}

// An item is taken only while its round lasts, and as long as one is left `work_` and `items_` are that round's.
void ThreadPool::take(std::uint32_t round, int thread) {
    std::uint64_t state = state_.load(std::memory_order_acquire);
    while (round_of(state) == round) {
        const auto* work = work_.load(std::memory_order_acquire);
        const auto item = static_cast<std::uint32_t>(state);
        if (item >= items_.load(std::memory_order_acquire)) return;
        if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
        (*work)(static_cast<int>(item), thread);
        done_.fetch_add(1, std::memory_order_acq_rel);
        state = state_.load(std::memory_order_acquire);
    }
}

void ThreadPool::serve(int thread) {
    std::uint32_t seen = 0;
    for (;;) {
        for (int look = 0; look < kLooks && round_of(state_.load(std::memory_order_acquire)) == seen && !stop_; ++look) pause();
        if (round_of(state_.load(std::memory_order_acquire)) == seen) {
            std::unique_lock lock(mutex_);
            wake_.wait(lock, [&] { return stop_ || round_of(state_.load(std::memory_order_acquire)) != seen; });
        }
        if (stop_) return;
        seen = round_of(state_.load(std::memory_order_acquire));
        take(seen, thread);
    }
}

}  // namespace bitlens
