// Threads of one engine: the same work items on any number of threads, so the same bits.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace bitlens {

class ThreadPool {
public:
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int threads() const { return static_cast<int>(workers_.size()) + 1; }

    // Calls work(item, thread) once for each item in 0..items-1; returns when all are done. `work` must not throw.
    void each(int items, const std::function<void(int item, int thread)>& work);

private:
    void stop();
    void serve(int thread);
    void take(std::uint32_t round, int thread);

    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<std::uint64_t> state_{0};  // round << 32 | next item
    std::atomic<int> done_{0};
    std::atomic<std::uint32_t> items_{0};
    std::atomic<const std::function<void(int, int)>*> work_{nullptr};
    std::atomic<bool> stop_{false};
};

}  // namespace bitlens
