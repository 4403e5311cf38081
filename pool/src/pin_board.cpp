#include "pin_board.h"

#include "statistics.h"

#include <algorithm>

#include <cmpool/base/assert.h>

namespace cmpool::pool {
namespace {

std::uint64_t load(const std::uint64_t& word) noexcept { return model::load_acquire(word); }

// A hostile client may have written any number here.
std::uint64_t pins_end(const model::ControlPage& page) noexcept {
    return std::min<std::uint64_t>(load(page.pins_end), model::kPinsMax);
}

bool any_pin(const model::ControlPage& page) noexcept {
    const std::uint64_t end = pins_end(page);
    return std::any_of(page.pins, page.pins + end, [](const std::uint64_t& pin) { return load(pin) != 0; });
}

void add_counts(model::ReadCounts& sum, const model::ControlPage& page) noexcept {
    for (const auto& [name, number] : kReadStatistics) sum.*number += load(page.counts.*number);
}

}  // namespace

model::ControlPage& PinBoard::Page::control() const noexcept {
    return *reinterpret_cast<model::ControlPage*>(segment->bytes().data());
}

PinBoard::PageId PinBoard::add(std::unique_ptr<transport::Segment> page,
                               std::shared_ptr<ProcessWatch::Handle> process) {
    CMPOOL_ASSERT(page->bytes().size() >= sizeof(model::ControlPage));
    pages_.push_back({.id = next_id_, .segment = std::move(page), .process = std::move(process)});
    return next_id_++;
}

const transport::Segment& PinBoard::segment(PageId id) const {
    const auto page =
        std::find_if(pages_.begin(), pages_.end(), [&](const Page& each) { return each.id == id; });
    CMPOOL_ASSERT(page != pages_.end());
    return *page->segment;
}

void PinBoard::leave(PageId id) {
    for (auto& page : pages_) {
        if (page.id == id) page.left = true;
    }
    sweep();
}

bool PinBoard::sweep() {
    const auto over = [&](const Page& page) {
        const bool gone = page.left && (!any_pin(page.control()) || !page.process->alive());
        if (gone) add_counts(gone_, page.control());
        return gone;
    };
    return std::erase_if(pages_, over) > 0;
}

void PinBoard::refresh() {
    pins_.clear();
    for (const auto& page : pages_) {
        const model::ControlPage& control = page.control();
        const std::uint64_t end = pins_end(control);
        for (std::uint64_t index = 0; index < end; ++index) {
            if (const std::uint64_t pin = load(control.pins[index]); pin != 0) pins_.insert(pin);
        }
    }
}

void PinBoard::drain(std::vector<std::uint64_t>& touches) {
    for (auto& page : pages_) {
        model::ControlPage& control = page.control();
        const std::uint64_t head = load(control.touch_head);
        // A head out of reach is a client's fault, and costs it its own touches only.
        if (head - page.touch_tail > model::kTouchRingSlots) page.touch_tail = head;
        for (; page.touch_tail != head; ++page.touch_tail) {
            touches.push_back(load(control.touches[page.touch_tail % model::kTouchRingSlots]));
        }
        model::store_release(control.touch_tail, page.touch_tail);
    }
}

model::ReadCounts PinBoard::counts() const {
    model::ReadCounts sum = gone_;
    for (const auto& page : pages_) add_counts(sum, page.control());
    return sum;
}

}  // namespace cmpool::pool
