#pragma once

#include <memory>

#include <cmpool/transport/segment.h>

namespace cmpool::pool {

/// A segment that peers of this host may map, and the same memory as others read it one-sided, where a
/// fabric for that is at hand.
///
///   Always  what the other fabric holds of the memory ends before the memory changes or goes
class ExposedSegment final : public transport::Segment {
public:
    ExposedSegment(std::unique_ptr<transport::Segment> own, std::unique_ptr<transport::Segment> read)
        : own_(std::move(own)), read_(std::move(read)) {}

    [[nodiscard]] MutableBytes bytes() noexcept override { return own_->bytes(); }
    [[nodiscard]] const transport::Descriptor& descriptor() const noexcept override {
        return own_->descriptor();
    }
    [[nodiscard]] transport::Token token() const noexcept override { return own_->token(); }
    [[nodiscard]] transport::Revocation revoke() override {
        read_.reset();
        return own_->revoke();
    }
    void punch() noexcept override {
        read_.reset();
        own_->punch();
    }
    /// What one-sided readers import; null where there are none.
    [[nodiscard]] const transport::Segment* one_sided() const noexcept { return read_.get(); }

private:
    std::unique_ptr<transport::Segment> own_;
    std::unique_ptr<transport::Segment> read_;  // ends first
};

}  // namespace cmpool::pool
