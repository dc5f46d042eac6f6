#include "thread_pool.h"

namespace bitlens {
namespace {

// A layer takes tens of microseconds, a sleeping thread tens of microseconds to wake: look this often before sleeping.
constexpr int kLooks = 20000;

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
        work_ = &work;
        items_ = items;
        next_ = 0;
        busy_ = static_cast<int>(workers_.size());
        round_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    take(0);
    // No worker is left in `take` when this returns, so that the next round may set what `take` reads.
    for (int look = 0; busy_.load(std::memory_order_acquire); look += look < kLooks) look < kLooks ? pause() : std::this_thread::yield();
}

void ThreadPool::take(int thread) {
    for (int item; (item = next_.fetch_add(1, std::memory_order_relaxed)) < items_;) (*work_)(item, thread);
}

void ThreadPool::serve(int thread) {
    unsigned seen = 0;
    for (;;) {
        for (int look = 0; look < kLooks && round_.load(std::memory_order_acquire) == seen && !stop_; ++look) pause();
        if (round_.load(std::memory_order_acquire) == seen) {
            std::unique_lock lock(mutex_);
            wake_.wait(lock, [&] { return stop_ || round_.load(std::memory_order_acquire) != seen; });
        }
        if (stop_) return;
        seen = round_.load(std::memory_order_acquire);
        take(thread);
        busy_.fetch_sub(1, std::memory_order_acq_rel);
    }
}

}  // namespace bitlens
