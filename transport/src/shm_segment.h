#pragma once

#include "owned_memory.h"
#include "segment_table.h"

#include <memory>
#include <string>

#include <cmpool/base/rng.h>
#include <cmpool/transport/segment.h>

namespace cmpool::transport {

/// A fresh segment's number and secret.
struct SegmentSecrets {
    std::uint64_t id = 0;
    Token token;
};

/// Shared memory of ours: a file that peers may only read, or a sealed memfd that they may write.
/// Errors: NoCapacity, Invalid, Denied.
[[nodiscard]] Result<std::unique_ptr<Segment>> make_shm_segment(SegmentTable& table,
                                                                const std::string& runtime_dir,
                                                                const SegmentSpec& spec,
                                                                SegmentSecrets secrets);

/// A window into this process: peers read it through the kernel, if the kernel lets them.
[[nodiscard]] std::unique_ptr<Segment> make_shm_window(MutableBytes memory, SegmentSecrets secrets);

}  // namespace cmpool::transport
