#pragma once

#include <cstdint>
#include <memory>
#include <unordered_set>
#include <vector>

#include <cmpool/model/index_layout.h>
#include <cmpool/pool/directory.h>
#include <cmpool/transport/segment.h>

namespace cmpool::pool {

/// The control pages of one domain's same-host clients: what they pin and what they touched.
///
/// A page lives until its client has gone *and* nothing is pinned on it or its process has ended: a
/// client that lost its lane may still be reading.
class PinBoard {
public:
    using PageId = std::uint64_t;

    PageId add(std::unique_ptr<transport::Segment> page, std::shared_ptr<ProcessWatch::Handle> process);
    [[nodiscard]] const transport::Segment& segment(PageId id) const;
    /// The client's lane is gone.
    void leave(PageId id);
    /// Forgets pages that nobody reads under any more. Returns whether any went.
    bool sweep();

    /// Reads all pins. Call it after a full fence that follows the clearing of slots.
    void refresh();
    [[nodiscard]] bool pinned(const model::Location& at) const { return pins_.contains(model::pin_word(at)); }

    /// Takes what clients touched since the last time, oldest first, bounded by the rings' size.
    void drain(std::vector<std::uint64_t>& touches);

    /// What clients have counted for themselves, summed; their word, for statistics only.
    [[nodiscard]] model::ReadCounts counts() const;
    [[nodiscard]] std::size_t pages() const noexcept { return pages_.size(); }

private:
    struct Page {
        PageId id;
        std::unique_ptr<transport::Segment> segment;
        std::shared_ptr<ProcessWatch::Handle> process;
        bool left = false;
        std::uint64_t touch_tail = 0;  ///< ours; what stands in the page is for the client to read

        [[nodiscard]] model::ControlPage& control() const noexcept;
    };
    std::vector<Page> pages_;
    std::unordered_set<std::uint64_t> pins_;
    model::ReadCounts gone_;  ///< of pages that are no more
    PageId next_id_ = 1;
};

}  // namespace cmpool::pool
