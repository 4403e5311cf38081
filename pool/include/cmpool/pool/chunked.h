#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace cmpool::pool {

/// A list that only grows, and never moves what it holds. A vector of a million records would copy tens of
/// megabytes within somebody's put when it is full, and leave as much memory behind, where nothing fits.
template <class T>
class Chunked {
public:
    [[nodiscard]] T& operator[](std::size_t index) noexcept {
        return chunks_[index / kLength][index % kLength];
    }
    [[nodiscard]] const T& operator[](std::size_t index) const noexcept {
        return chunks_[index / kLength][index % kLength];
    }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    /// One more, as T{} is.
    T& grow() {
        if (size_ == chunks_.size() * kLength) chunks_.push_back(std::make_unique<T[]>(kLength));
        return (*this)[size_++];
    }

private:
    static constexpr std::size_t kLength = 2048;
    std::vector<std::unique_ptr<T[]>> chunks_;
    std::size_t size_ = 0;
};

}  // namespace cmpool::pool
