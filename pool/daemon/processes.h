#pragma once

#include <memory>

#include <cmpool/pool/directory.h>

namespace cmpool::daemon {

/// Linux processes, by pidfd: a number that is given out again is not mistaken for who had it before.
class PidfdWatch final : public pool::ProcessWatch {
public:
    [[nodiscard]] std::unique_ptr<Handle> watch(std::int32_t pid) override;
};

}  // namespace cmpool::daemon
