#pragma once

#include <cstdint>
#include <string>

#include <cmpool/base/clock.h>

namespace cmpool::cli {

/// How far something is: a line on stderr that is written over, and nothing where no person looks.
///
///   Threads  one at a time
class Progress {
public:
    Progress();
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;
    ~Progress() { clear(); }

    /// From now on at() is about `what`.
    void begin(std::string what);
    /// Cheap enough for a loop: it draws a few times a second.
    void at(std::uint64_t done, std::uint64_t whole);
    void clear();

private:
    void draw(std::uint64_t done, std::uint64_t whole) const;

    bool person_;
    std::string what_;
    Instant next_{};
};

}  // namespace cmpool::cli
