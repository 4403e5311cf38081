#pragma once

#include <mutex>
#include <utility>
#include <vector>

namespace cmpool::loop {

/// Hands values from one thread to another, in order. Its bound is that of what they speak of: requests
/// are limited where they come in.
template <class T>
class Channel {
public:
    void push(T value) {
        const std::scoped_lock lock(mutex_);
        values_.push_back(std::move(value));
    }
    [[nodiscard]] std::vector<T> take() {
        const std::scoped_lock lock(mutex_);
        return std::exchange(values_, {});
    }

private:
    std::mutex mutex_;
    std::vector<T> values_;
};

}  // namespace cmpool::loop
