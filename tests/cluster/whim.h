#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <cmpool/base/rng.h>
#include <cmpool/base/units.h>

namespace cmpool::testing {

/// What somebody says who means no good: the edges of what a field may hold, and anything.
class Whim {
public:
    explicit Whim(Rng& rng) : rng_(rng) {}

protected:
    template <class T>
    T one_of(std::initializer_list<T> values) {
        return values.begin()[rng_.below(values.size())];
    }
    std::uint64_t number() {
        return one_of<std::uint64_t>({0, 1, 2, 63, 64, 4096, 1 * MiB, UINT32_MAX, UINT64_MAX, rng_.next()});
    }
    std::uint32_t small() { return static_cast<std::uint32_t>(number()); }
    /// A list that lives until forget().
    template <class T>
    std::span<const T> keep(std::vector<T> list) {
        const auto kept = std::make_shared<const std::vector<T>>(std::move(list));
        kept_.push_back(kept);
        return *kept;
    }
    void forget() { kept_.clear(); }

    Rng& rng_;

private:
    std::vector<std::shared_ptr<const void>> kept_;
};

}  // namespace cmpool::testing
